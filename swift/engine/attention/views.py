"""The keys that the queries of packed rows see in layers of one kind, and the dense mask that says so."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from swift.engine.model_inputs import FULL, SLIDING, decoder_layers
from swift.engine.packing import PackedRows, group_mask


@dataclass(frozen=True)
class LayerView:
    """Packed rows as the layers of one kind see them."""

    rows: PackedRows
    window: int | None  # tokens that a token sees, itself included; None for all
    image_of: Tensor | None  # [rows, L] number of a token's image from 1, else 0; None unless images see both ways


def layer_views(model: nn.Module, rows: PackedRows, prompt_ids: Tensor) -> dict[str, LayerView]:
    """A view for each kind of layer in ``model``. ``prompt_ids`` [rows, P] are the ids of the first keys, among which
    the image tokens are."""
    layers, keys = decoder_layers(model), rows.segments.shape[1]
    image_of = None
    if layers.images_both_ways:
        image_tokens = torch.zeros_like(rows.segments, dtype=torch.bool)
        image_tokens[:, : prompt_ids.shape[1]] = prompt_ids == model.config.image_token_id
        begins = image_tokens & ~nn.functional.pad(image_tokens, (1, 0))[:, :-1]
        image_of = torch.where(image_tokens, begins.cumsum(dim=1), 0)
    slides = SLIDING in layers.kinds and layers.window < keys
    views = {FULL: LayerView(rows, None, image_of)}
    views[SLIDING] = LayerView(rows, layers.window, image_of) if slides else views[FULL]
    return {kind: views[kind] for kind in layers.kinds}


def dense_mask(view: LayerView) -> Tensor:
    """The view as a mask, bool [rows, 1, Q, L]."""
    rows, first = view.rows, view.rows.first_query
    visible = group_mask(rows.segments, rows.queries)
    if view.image_of is not None:
        own_image = view.image_of[:, first:, None]
        visible |= (own_image == view.image_of[:, None, :]) & (own_image > 0)
    if view.window is not None:
        visible &= rows.order[:, None, :] > rows.order[:, first:, None] - view.window
        visible |= torch.eye(first + rows.queries, dtype=torch.bool, device=visible.device)[first:]
    return visible[:, None]

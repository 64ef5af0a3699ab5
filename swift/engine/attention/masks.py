"""The masks that a model's layers need for packed rows, in the form that its attention takes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask

from swift.engine.attention.choice import FLEX, PARTS, decoder_attention
from swift.engine.attention.flex import block_mask
from swift.engine.attention.parts import parts_mask
from swift.engine.attention.views import LayerView, dense_mask, layer_views
from swift.engine.packing import PackedRows

Mask = Tensor | BlockMask


def row_masks(model: nn.Module, rows: PackedRows, prompt_ids: Tensor) -> Mask | dict[str, Mask]:
    """The mask of ``rows`` if all layers of ``model`` are of one kind, otherwise a mask per kind.

    ``prompt_ids`` [rows, P] are the ids of the first keys, among which the image tokens are.
    """
    views = layer_views(model, rows, prompt_ids)
    by_window: dict[int | None, Mask] = {}
    for view in views.values():
        if view.window not in by_window:
            by_window[view.window] = _mask(model, view)
    masks = {kind: by_window[view.window] for kind, view in views.items()}
    return masks if len(masks) > 1 else next(iter(masks.values()))


def _mask(model: nn.Module, view: LayerView) -> Mask:
    attention = decoder_attention(model)
    if attention == FLEX:
        return block_mask(view)
    if attention == PARTS:
        return parts_mask(view)
    mask = dense_mask(view)
    return _additive(mask, model.dtype) if attention == "eager" else mask


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A boolean mask as numbers to add to attention scores: eager attention adds its mask, SDPA takes booleans."""
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, torch.finfo(dtype).min)

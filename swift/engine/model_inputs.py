"""What a model's forward pass needs besides token ids: token types, positions, and masks for its kinds of layers.

Phi-4-multimodal counts tokens and has causal layers only. Qwen-VL models place an image's tokens on a grid (three
positions a token). Gemma 3 lets an image's tokens see each other both ways, and most of its layers see a window.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass

import torch
from torch import Tensor, nn

FULL, SLIDING = "full_attention", "sliding_attention"


def forward_names(model: nn.Module) -> frozenset[str]:
    """The arguments that the model's forward names."""
    return frozenset(inspect.signature(type(model).forward).parameters)


def token_types(model: nn.Module, input_ids: Tensor) -> dict[str, Tensor]:
    """The argument, where the model has one, that tells image tokens (1) from text (0), shaped like ``input_ids``."""
    names = {"token_type_ids", "mm_token_type_ids"} & forward_names(model)
    return {name: (input_ids == model.config.image_token_id).long() for name in names}


def prompt_positions(model: nn.Module, input_ids: Tensor, order: Tensor, mask: Tensor, images: dict) -> Tensor:
    """Positions of the prompts' tokens: ``order`` [B, P] itself, or [3, B, P] where the model lays images on a grid."""
    place = getattr(getattr(model, "model", None), "get_rope_index", None)
    if place is None:
        return order
    wanted = inspect.signature(place).parameters
    grids = {name: value for name, value in images.items() if name in wanted}
    if not grids:
        return order.expand(3, -1, -1)
    types = {name: value for name, value in token_types(model, input_ids).items() if name in wanted}
    positions, _ = place(input_ids=input_ids, attention_mask=mask.long(), **types, **grids)
    return positions


def next_positions(positions: Tensor, mask: Tensor) -> Tensor:
    """The position [B] of the token after each prompt: one more than the highest in it."""
    highest = positions.amax(dim=0) if positions.ndim == 3 else positions
    return highest.masked_fill(~mask, 0).amax(dim=1) + 1


def remember_positions(model: nn.Module, deltas: Tensor) -> None:
    """Tell a model that lays images on a grid how far positions run from token counts [N], for decoding from a cache
    that it did not fill in the same call."""
    core = getattr(model, "model", None)
    if hasattr(core, "rope_deltas"):
        core.rope_deltas = deltas[:, None]


@dataclass(frozen=True)
class Layers:
    """How the decoder's layers attend."""

    kinds: frozenset[str]  # names as in the configuration's layer_types
    window: int | None  # tokens a sliding layer sees, itself included
    images_both_ways: bool  # tokens of one image see each other


def decoder_layers(model: nn.Module) -> Layers:
    """How the layers of the model's decoder attend, as its configuration says."""
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None) or [SLIDING if window else FULL]
    return Layers(frozenset(kinds), window, "token_type_ids" in forward_names(model))


def attention_masks(layers: Layers, visible: Tensor, order: Tensor, image_tokens: Tensor) -> Tensor | dict[str, Tensor]:
    """Masks for packed rows, bool [rows, 1, L, L], by kind of layer where there are several.

    ``visible`` [rows, L (query), L (key)] is who may see whom causally, ``order`` [rows, L] each token's number in its
    own sequence, ``image_tokens`` bool [rows, L] where images lie.
    """
    if layers.images_both_ways:
        begins = image_tokens & ~nn.functional.pad(image_tokens, (1, 0))[:, :-1]
        block = torch.where(image_tokens, begins.cumsum(dim=1), 0)
        visible = visible | ((block[:, :, None] == block[:, None, :]) & (block[:, :, None] > 0))
    masks = dict.fromkeys((FULL, SLIDING), visible[:, None])
    if SLIDING in layers.kinds and layers.window < order.shape[1]:
        near = order[:, None, :] > order[:, :, None] - layers.window
        own = torch.eye(order.shape[1], dtype=torch.bool, device=order.device)
        masks[SLIDING] = ((visible & near) | own)[:, None]
    if len(layers.kinds) == 1:
        return masks[next(iter(layers.kinds))]
    return masks

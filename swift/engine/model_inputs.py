"""Inputs of a model's forward pass besides token ids: token types and positions. Also its kinds of layers.

Phi-4-multimodal has positions that count tokens, and causal layers only. Qwen-VL models place the tokens of an image on
a grid, with three positions per token. Gemma 3 lets the tokens of an image see each other in both directions, and most
of its layers see a sliding window.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass

from torch import Tensor, nn

FULL, SLIDING = "full_attention", "sliding_attention"


def forward_names(model: nn.Module) -> frozenset[str]:
    """Names of the arguments of the model's forward."""
    return frozenset(inspect.signature(type(model).forward).parameters)


def token_types(model: nn.Module, input_ids: Tensor) -> dict[str, Tensor]:
    """The argument that marks image tokens with 1 and text with 0, shaped like ``input_ids``; empty if the model has no
    such argument."""
    names = {"token_type_ids", "mm_token_type_ids"} & forward_names(model)
    return {name: (input_ids == model.config.image_token_id).long() for name in names}


def prompt_positions(model: nn.Module, input_ids: Tensor, order: Tensor, mask: Tensor, images: dict) -> Tensor:
    """Positions of the prompts' tokens: ``order`` [B, P] itself, or [3, B, P] if the model places images on a grid."""
    rope_index = getattr(getattr(model, "model", None), "get_rope_index", None)
    if rope_index is None:
        return order
    accepted = inspect.signature(rope_index).parameters
    grids = {name: value for name, value in images.items() if name in accepted}
    if not grids:
        return order.expand(3, -1, -1)
    types = {name: value for name, value in token_types(model, input_ids).items() if name in accepted}
    positions, _ = rope_index(input_ids=input_ids, attention_mask=mask.long(), **types, **grids)
    return positions


def next_positions(positions: Tensor, mask: Tensor) -> Tensor:
    """The position [B] of the token after each prompt, which is one more than the highest position in the prompt."""
    highest = positions.amax(dim=0) if positions.ndim == 3 else positions
    return highest.masked_fill(~mask, 0).amax(dim=1) + 1


@dataclass(frozen=True)
class Layers:
    """Attention patterns of a decoder's layers."""

    kinds: frozenset[str]  # names as in the configuration's layer_types
    window: int | None  # tokens that a token sees in a sliding layer, itself included
    images_both_ways: bool  # the tokens of one image see each other in both directions


def decoder_layers(model: nn.Module) -> Layers:
    """Read the attention patterns of the model's decoder from its configuration."""
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None) or [SLIDING if window else FULL]
    return Layers(frozenset(kinds), window, "token_type_ids" in forward_names(model))

"""The attention that a model's decoder uses, by the name under which transformers knows it.

A decoder that uses `FLEX` or `PARTS` differs in packed rows only. In all other rows these are SDPA and flash attention.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn
from transformers import PreTrainedConfig

from swift.llm.policy import decoder_layers_of

FLEX = "packed_flex"  # FlexAttention in packed rows, see flex.py
PARTS = "packed_flash_attention_2"  # flash attention in parts, see parts.py
FLASH = "flash_attention_2"
# Arguments of an attention function that change its result, and that the functions of this project do not know.
UNKNOWN = ("softcap", "s_aux", "position_bias", "head_mask")


def refuse_unknown(others: Mapping[str, object], dropout: float) -> None:
    """Raise ValueError if an attention function is asked for dropout, or for one of `UNKNOWN` among ``others``."""
    unknown = [name for name in UNKNOWN if others.get(name) is not None]
    if unknown or dropout:
        raise ValueError(f"attention with {', '.join(unknown) or 'dropout'} is not known here")


def decoder_attention(model: nn.Module) -> str:
    """The name of the attention in the decoder of ``model``."""
    return model.config.get_text_config()._attn_implementation


def packing_attentions(model: nn.Module, attn_impl: str, device: torch.device) -> list[str]:
    """Names of the attention that packed rows may use on ``device``, the best first and the decoder's own last.
    ``attn_impl`` is as in ``--attn_impl``."""
    own, config = decoder_attention(model), model.config.get_text_config()
    if getattr(config, "attention_dropout", 0):
        return [own]
    if own == "sdpa" and device.type == "cuda" and attn_impl != "sdpa":
        return [FLEX, own]
    return [PARTS, own] if own == FLASH else [own]


def attend_by(model: nn.Module, name: str) -> None:
    """Let the decoder of ``model`` use the attention ``name``. Towers of images keep theirs."""
    for config in configs_of([model.get_decoder(), *decoder_layers_of(model).modules()]):
        config._attn_implementation_internal = name


def configs_of(modules: Iterable[nn.Module]) -> list[PreTrainedConfig]:
    """The configurations of ``modules``, each once."""
    found = (getattr(module, "config", None) for module in modules)
    return list({id(config): config for config in found if isinstance(config, PreTrainedConfig)}.values())


@contextmanager
def attention_named(configs: Iterable[PreTrainedConfig], name: str) -> Iterator[None]:
    """Let modules with these configurations use the attention ``name`` within the block."""
    before = [(config, config._attn_implementation) for config in configs]
    for config, _ in before:
        config._attn_implementation_internal = name
    try:
        yield
    finally:
        for config, own in before:
            config._attn_implementation_internal = own

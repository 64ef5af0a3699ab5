"""Division of a rollout into slices of whole groups that fit into memory, and a model's bytes per token."""

from __future__ import annotations

import psutil
import torch
from torch import Tensor
from transformers import PreTrainedConfig

from swift.utils.distributed import get_dist_setting

SLICE_SHARE = 0.8  # share of the free memory that a slice may take
SAMPLED_BYTES = 30  # per row and entry of the vocabulary, while a token is drawn (estimate)


def cached_bytes(config: PreTrainedConfig, itemsize: int) -> float:
    """Bytes of a token's keys and values in all layers, if a number takes ``itemsize`` bytes. ``config`` is the text
    model's."""
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2.0 * config.num_hidden_layers * config.num_key_value_heads * width * itemsize


def passing_bytes(config: PreTrainedConfig, itemsize: int) -> float:
    """Bytes that one layer holds of a token in a pass without gradients: both halves of its MLP, their product, and
    four hidden states."""
    return itemsize * (3.0 * getattr(config, "intermediate_size", config.hidden_size) + 4 * config.hidden_size)


def free_bytes(device: torch.device) -> float:
    """Memory that this process may still take on ``device``. Processes on one machine share what its CPU has."""
    if device.type == "cuda":
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + reserved
    return psutil.virtual_memory().available / get_dist_setting()[3]


def group_slices(
    lengths: Tensor, group_size: int, new_tokens: int, config: PreTrainedConfig, itemsize: int, room: float
) -> list[list[int]]:
    """The places of B prompts of ``lengths`` [B] tokens, in order, in as few slices as ``room`` bytes allow.

    A slice holds the keys and values of its prompts, padded to the longest, and of ``group_size`` completions of
    ``new_tokens`` each, and either what passes through a layer when the prompts are read or what sampling takes. A
    group that exceeds the room alone is a slice of its own.
    """
    token, passing = cached_bytes(config, itemsize), passing_bytes(config, itemsize)
    slices: list[list[int]] = []
    widest = 0
    for place, length in enumerate(lengths.tolist()):
        widest = max(widest, length)
        count = len(slices[-1]) + 1 if slices else 1
        kept = token * count * (widest + group_size * new_tokens)
        passed = max(passing * count * widest, SAMPLED_BYTES * config.vocab_size * group_size * count)
        if not slices or kept + passed > SLICE_SHARE * room:
            slices.append([])
            widest = length
        slices[-1].append(place)
    return slices

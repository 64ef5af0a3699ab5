"""Batches of similar length, padding and precision for both neural models."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Protocol, TypeVar

import torch

# Padded word-pieces per batch: enough to keep a device busy, and on a CPU few enough for its cache.
_TOKEN_BUDGET = {"cuda": 32_768}
_CPU_BUDGET = 2_048
SORTED_AT_ONCE = 8_192


class Encoded(Protocol):
    """Anything with word-piece ids."""

    ids: list[int]


Input = TypeVar("Input", bound=Encoded)


def usual_budget(device: torch.device) -> int:
    """The number of padded word-pieces that a batch may have on this kind of device."""
    return _TOKEN_BUDGET.get(device.type, _CPU_BUDGET)


def batches(inputs: Iterable[Input], token_budget: int) -> Iterator[list[Input]]:
    """Batches whose size times their longest input is at most ``token_budget``; a longer input is a batch of its own.

    The stream is sorted by length in buffers of `SORTED_AT_ONCE`, so memory is bounded for a stream of any length.
    """
    stream = iter(inputs)
    while buffer := sorted(islice(stream, SORTED_AT_ONCE), key=lambda encoded: len(encoded.ids)):
        batch: list[Input] = []
        for encoded in buffer:
            if batch and (len(batch) + 1) * len(encoded.ids) > token_budget:
                yield batch
                batch = []
            batch.append(encoded)
        yield batch


def pad(inputs: Sequence[Encoded], pad_id: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids, attention mask), both [batch, longest]."""
    longest = max(len(encoded.ids) for encoded in inputs)
    ids = torch.tensor([encoded.ids + [pad_id] * (longest - len(encoded.ids)) for encoded in inputs])
    lengths = torch.tensor([len(encoded.ids) for encoded in inputs])
    mask = (torch.arange(longest) < lengths[:, None]).long()
    return ids.to(device), mask.to(device)


@contextmanager
def predicting(device: torch.device) -> Iterator[None]:
    """Turn gradients off. On CUDA, compute in half precision (bfloat16 if the device has it), elsewhere in float32."""
    with torch.inference_mode():
        if device.type != "cuda":
            yield
            return
        half = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
        with torch.autocast("cuda", dtype=half):
            yield

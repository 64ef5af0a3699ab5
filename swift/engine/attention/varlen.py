"""Joint attention to several parts of the keys, each by a kernel for sequences of any length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from swift.engine.rollout.part_attention import join_parts


@dataclass(frozen=True)
class Part:
    """Keys that queries attend to, as sequences one after the other. Each has as many queries as its own count says.

    If ``causal``, the last query of a sequence sees its last key, the one before it sees all but the last, and so on.
    """

    places: Tensor  # [K] numbers of the keys, row by row
    query_ends: Tensor  # [S + 1] int32: where the queries of each sequence end, after a 0
    key_ends: Tensor  # [S + 1] int32
    most_queries: int  # of a sequence
    most_keys: int
    causal: bool
    window: int | None  # keys that a query sees, up to the one at its own place; None for all

    @classmethod
    def of(cls, places: Tensor, queries: Tensor, keys: Tensor, *, causal: bool, window: int | None = None) -> Part:
        """A part of sequences with so many ``queries`` [S] and ``keys`` [S]."""
        ends = (torch.nn.functional.pad(counts.cumsum(0), (1, 0)).int() for counts in (queries, keys))
        return cls(places, *ends, int(queries.max()), int(keys.max()), causal, window)


@dataclass(frozen=True)
class PartCall:
    """Attention of queries to the keys of one part."""

    query: Tensor  # [T, query heads, size]
    keys: Tensor  # [K, heads, size]
    values: Tensor  # [K, heads, size]
    part: Part
    scale: float  # factor of the scores


class VarlenKernel(Protocol):
    """Computes attention to one part of the keys, and its gradients."""

    def attend(self, call: PartCall) -> tuple[Tensor, Tensor]:
        """Results [T, query heads, size] and float32 log-sum-exp of the scores [query heads, T]."""
        ...

    def gradients(self, call: PartCall, grad: Tensor, result: Tensor, logsum: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of query, keys and values, given those of ``result``. The weight of a key is exp(score -
        ``logsum``)."""
        ...


class FlashKernel:
    """The flash attention that torch is built with. It needs CUDA and half precision."""

    def attend(self, call: PartCall) -> tuple[Tensor, Tensor]:
        """The same as `VarlenKernel` says."""
        result, logsum, *_ = torch.ops.aten._flash_attention_forward(
            call.query, call.keys, call.values, *_extent(call.part), False, scale=call.scale, **_sides(call.part)
        )
        return result, logsum

    def gradients(self, call: PartCall, grad: Tensor, result: Tensor, logsum: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The same as `VarlenKernel` says."""
        no_dropout = torch.zeros(2, dtype=torch.uint64, device=grad.device), grad.new_empty(0)
        inputs = grad, call.query, call.keys, call.values, result, logsum, *_extent(call.part), *no_dropout
        return torch.ops.aten._flash_attention_backward(*inputs, scale=call.scale, **_sides(call.part))


def _extent(part: Part) -> tuple[Tensor, Tensor, int, int, float, bool]:
    """Sequences, dropout, and whether the mask is causal without a window."""
    causal = part.causal and part.window is None
    return part.query_ends, part.key_ends, part.most_queries, part.most_keys, 0.0, causal


def _sides(part: Part) -> dict[str, int | None]:
    if part.window is None:
        return {"window_size_left": None, "window_size_right": None}
    return {"window_size_left": part.window - 1, "window_size_right": 0}


kernel: VarlenKernel = FlashKernel()


class _Joint(torch.autograd.Function):
    """Attention of ``query`` to the keys of all ``parts``; see `attend_jointly`."""

    @staticmethod
    def forward(ctx, parts, scale, query, *keys_and_values):
        result = logsum = None
        for call in _calls(parts, scale, query, keys_and_values):
            found, own = kernel.attend(call)
            if result is None:
                result, logsum = found, own
            else:
                result, logsum = join_parts(result, logsum.t(), found, own.t()), torch.logaddexp(logsum, own)
        result = result.to(query.dtype)
        ctx.save_for_backward(query, result, logsum, *keys_and_values)
        ctx.parts, ctx.scale = parts, scale
        return result

    @staticmethod
    def backward(ctx, grad):
        query, result, logsum, *keys_and_values = ctx.saved_tensors
        grad, grad_query, others = grad.contiguous(), torch.zeros_like(query), []
        for call in _calls(ctx.parts, ctx.scale, query, keys_and_values):
            share, *pair = kernel.gradients(call, grad, result, logsum)
            grad_query += share
            others += pair
        return None, None, grad_query, *others


def _calls(parts: Sequence[Part], scale: float, query: Tensor, keys_and_values: Sequence[Tensor]) -> Iterator[PartCall]:
    for part, keys, values in zip(parts, keys_and_values[::2], keys_and_values[1::2], strict=True):
        yield PartCall(query, keys, values, part, scale)


def attend_jointly(
    query: Tensor, keys_and_values: Sequence[tuple[Tensor, Tensor]], parts: Sequence[Part], scale: float
) -> Tensor:
    """Attention of ``query`` [T, query heads, size] to the keys and values [K, heads, size] of all ``parts``, under one
    softmax. Returns [T, query heads, size]."""
    flat = [value for pair in keys_and_values for value in pair]
    return _Joint.apply(tuple(parts), scale, query, *flat)

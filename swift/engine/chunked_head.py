"""Log-probabilities of chosen tokens without ever holding [tokens, vocabulary] logits.

Phi-4's vocabulary is 200,064. For 2,000 tokens the float32 logits alone take 1.6 GB, and autograd keeps several tensors
of that size. Here the forward pass projects a chunk of tokens at a time, reduces its logits and drops them. The
backward pass projects the chunk again. The gradient needs no graph: d logp(y) / d logits = (onehot(y) - softmax) /
temperature.

Products run in the type of the hidden states. A weight that is kept in float32 (see master_weights.py) is cast for
them, and its gradient is summed in float32 over the chunks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

CHUNK_ELEMENTS = 1 << 24  # logits held at once, 64 MiB in float32


def chunk_rows(vocabulary: int) -> int:
    """Number of tokens in a chunk, chosen so that its float32 logits take at most 64 MiB, but at least 1."""
    return max(1, CHUNK_ELEMENTS // vocabulary)


def chunk_logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float) -> Tensor:
    """Logits over ``temperature`` [T, V], float32, of a chunk of hidden states [T, H]."""
    return nn.functional.linear(hidden, weight, bias).float().div_(temperature)


class ChunkedLogProbs(torch.autograd.Function):
    """Log-probabilities [T] of ``targets``, and entropies [T] in nats if ``with_entropy`` (else an empty tensor).

    Arguments of ``apply``: hidden [T, H], weight [V, H], bias [V] or None, targets [T], temperature, with_entropy. Only
    the log-probabilities are differentiable.
    """

    @staticmethod
    def forward(ctx, hidden, weight, bias, targets, temperature, with_entropy):
        rows = chunk_rows(weight.shape[0])
        masters, weight, bias = (weight, bias), *in_type(hidden.dtype, weight, bias)
        logps = hidden.new_empty(hidden.shape[0], dtype=torch.float32)
        log_normalizer = torch.empty_like(logps)
        entropy = torch.empty_like(logps) if with_entropy else logps.new_empty(0)
        for part in slices(hidden.shape[0], rows):
            logits = chunk_logits(hidden[part], weight, bias, temperature)
            normalizer = logits.logsumexp(dim=-1)
            logps[part] = logits.gather(1, targets[part, None]).squeeze(1) - normalizer
            log_normalizer[part] = normalizer
            if with_entropy:
                probabilities = (logits - normalizer[:, None]).exp_()
                entropy[part] = normalizer - probabilities.mul_(logits).sum(dim=-1)
        ctx.save_for_backward(hidden, *masters, targets, log_normalizer)
        ctx.temperature = temperature
        ctx.mark_non_differentiable(entropy)
        return logps, entropy

    @staticmethod
    def backward(ctx, grad_logps, _grad_entropy):
        hidden, *masters, targets, log_normalizer = ctx.saved_tensors
        weight, bias = in_type(hidden.dtype, *masters)
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.empty_like(hidden) if needs_hidden else None
        grad_weight = torch.zeros_like(masters[0]) if needs_weight else None
        grad_bias = torch.zeros_like(masters[1]) if needs_bias else None
        for part in slices(hidden.shape[0], chunk_rows(weight.shape[0])):
            grad = chunk_logits(hidden[part], weight, bias, ctx.temperature)
            grad = grad.sub_(log_normalizer[part, None]).exp_().neg_()
            grad[torch.arange(grad.shape[0], device=grad.device), targets[part]] += 1
            grad = grad.mul_(grad_logps[part, None] / ctx.temperature).to(weight.dtype)
            if needs_hidden:
                grad_hidden[part] = grad @ weight
            if needs_weight:
                _add_product(grad_weight, grad, hidden[part])
            if needs_bias:
                grad_bias += grad.sum(dim=0)
        return grad_hidden, grad_weight, grad_bias, None, None, None


def in_type(dtype: torch.dtype, *values: Tensor | None) -> tuple[Tensor | None, ...]:
    """The values in a type; None stays."""
    return tuple(None if value is None else value.to(dtype) for value in values)


def _add_product(total: Tensor, grad: Tensor, hidden: Tensor) -> None:
    """Add ``grad`` [T, V] transposed times ``hidden`` [T, H] to ``total`` [V, H], which may be of a wider type. A block
    of rows at a time, so that no second matrix of that size is held."""
    if total.dtype == grad.dtype:
        total.addmm_(grad.t(), hidden)
        return
    for rows in slices(len(total), max(1, CHUNK_ELEMENTS // total.shape[1])):
        total[rows] += grad[:, rows].t() @ hidden


def slices(length: int, size: int) -> Iterator[slice]:
    """Successive slices of ``size`` that cover ``length``."""
    return (slice(start, start + size) for start in range(0, length, size))


@dataclass(frozen=True)
class Choices:
    """Rank of each of T tokens among the whole vocabulary, and the K most likely tokens at its place."""

    ranks: Tensor  # [T] long, 1 for the most likely token; equally likely tokens share a rank
    top_ids: Tensor  # [T, K] long, the most likely first
    top_logps: Tensor  # [T, K] float32, natural logarithm


@torch.no_grad()
def token_choices(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, temperature: float, alternatives: int
) -> Choices:
    """Compute the choices at hidden states ``hidden`` [T, H] whose chosen tokens are ``targets`` [T], chunk by chunk.
    ``alternatives`` is K."""
    parts = []
    weight, bias = in_type(hidden.dtype, weight, bias)
    for part in slices(hidden.shape[0], chunk_rows(weight.shape[0])):
        logits = chunk_logits(hidden[part], weight, bias, temperature)
        ranks = 1 + (logits > logits.gather(1, targets[part, None])).sum(dim=-1)
        top, ids = logits.topk(alternatives, dim=-1)
        parts.append((ranks, ids, top - logits.logsumexp(dim=-1, keepdim=True)))
    return Choices(*(torch.cat(column) for column in zip(*parts, strict=True)))


@dataclass
class HeadCall:
    """Request of a scoring forward to the head, and its results beyond log-probabilities: ``entropy``, ``choices`` and
    ``hidden``.

    ``rows`` [T] indexes the hidden states flattened over batch and sequence. ``targets`` [T] are the token ids to score
    there. If ``alternatives`` is set, :class:`Choices` with that many alternatives are computed, which costs a second
    projection. With ``with_hidden`` the hidden states [T, H] are kept, without gradient.
    """

    rows: Tensor
    targets: Tensor
    temperature: float
    with_entropy: bool = False
    alternatives: int | None = None
    with_hidden: bool = False
    entropy: Tensor | None = None
    choices: Choices | None = None
    hidden: Tensor | None = None


@contextmanager
def scoring_head(head: nn.Linear, call: HeadCall) -> Iterator[None]:
    """Let ``head`` return the log-probabilities [T] of ``call`` in place of logits within the block."""

    def forward(hidden: Tensor) -> Tensor:
        hidden = hidden.reshape(-1, hidden.shape[-1])[call.rows]
        logps, entropy = ChunkedLogProbs.apply(
            hidden, head.weight, head.bias, call.targets, call.temperature, call.with_entropy
        )
        call.entropy = entropy if call.with_entropy else None
        call.hidden = hidden.detach() if call.with_hidden else None
        if call.alternatives is not None:
            call.choices = token_choices(
                hidden, head.weight, head.bias, call.targets, call.temperature, call.alternatives
            )
        return logps

    with exchanged_forward(head, forward):
        yield


@contextmanager
def exchanged_forward(head: nn.Linear, forward: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Let ``head`` compute ``forward`` within the block.

    The head's forward is exchanged, rather than its weights used from outside, so that the whole pass stays inside the
    wrapped model's forward. DistributedDataParallel and DeepSpeed need this to synchronize gradients.
    """
    replaced = vars(head).get("forward")
    head.forward = forward
    try:
        yield
    finally:
        del head.forward
        if replaced is not None:
            head.forward = replaced

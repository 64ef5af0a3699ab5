"""Divergence of two distributions over the whole vocabulary without ever holding [tokens, vocabulary] logits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from swift.engine.batch import Completions, PromptBatch
from swift.engine.chunked_head import chunk_logits, chunk_rows, exchanged_forward, in_type, slices
from swift.engine.logprobs import row_inputs, scatter
from swift.llm.policy import output_head


@torch.no_grad()
def token_divergences(hidden: Tensor, other: Tensor, weight: Tensor, bias: Tensor | None, temperature: float) -> Tensor:
    """KL(p || q) [T] in nats, float32, of the distributions p at hidden states ``hidden`` and q at ``other``.

    Both are [T, H]. ``weight`` [V, H] and ``bias`` [V] or None are those of the head. A chunk of tokens is projected at
    a time. Rounding below 0 becomes 0.
    """
    weight, bias = in_type(hidden.dtype, weight, bias)
    result = hidden.new_empty(len(hidden), dtype=torch.float32)
    for part in slices(len(hidden), chunk_rows(2 * len(weight))):
        ours, others = (
            chunk_logits(states[part], weight, bias, temperature).log_softmax(dim=-1) for states in (hidden, other)
        )
        result[part] = (ours.exp() * (ours - others)).sum(dim=-1)
    return result.clamp_(min=0)


@torch.no_grad()
def completion_divergences(
    model: nn.Module,
    prompts: PromptBatch,
    completions: Completions,
    hidden: Tensor,
    *,
    temperature: float = 1.0,
    packed: bool = True,
) -> Tensor:
    """KL(p || q) [N, C] at every token of ``completions`` in nats, 0 in padding. q is the distribution after these
    ``prompts``. p is the one at ``hidden`` [T, H], which `completion_logprobs` returned for other prompts.

    The other arguments are those of `completion_logprobs`. One forward pass without gradient.
    """
    unwrapped = getattr(model, "module", model)
    layout, inputs = row_inputs(unwrapped, prompts, completions, packed)
    with _comparing_head(output_head(unwrapped), layout.predictor_rows, hidden, temperature):
        return scatter(model(**inputs).logits, completions.mask)


@contextmanager
def _comparing_head(head: nn.Linear, rows: Tensor, hidden: Tensor, temperature: float) -> Iterator[None]:
    """Let ``head`` return the divergences [T] of the hidden states that it is given at ``rows`` from ``hidden``."""

    def forward(other: Tensor) -> Tensor:
        other = other.reshape(-1, other.shape[-1])[rows]
        return token_divergences(hidden, other, head.weight, head.bias, temperature)

    with exchanged_forward(head, forward):
        yield

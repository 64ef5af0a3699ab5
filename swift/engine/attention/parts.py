"""Flash attention over packed rows, in parts.

Flash attention takes no mask of pairs, only sequences of any length, one after the other. Packed rows are divided into
such sequences: prompts attend to themselves, and completions attend to their prompts and, in a second call, to
themselves. The results of both calls are joined by their log-sum-exp.

The gradient of the joint softmax needs no gradient of a log-sum-exp. With the joint result and the joint log-sum-exp in
place of those of a part, the kernel's backward pass of that part gives the part's share of it.

In layers with a sliding window, the last keys of the prompt are copied in front of each completion's own, since the
kernel counts windows from the ends of sequences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.flash_attention import flash_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from swift.engine.attention.choice import FLASH, PARTS, attention_named, refuse_unknown
from swift.engine.attention.varlen import Part, attend_jointly
from swift.engine.attention.views import LayerView
from swift.engine.packing import PROMPT


@dataclass(frozen=True)
class JointQueries:
    """Queries that attend to the keys of all ``parts``."""

    places: Tensor  # [T] numbers of the queries, row by row
    parts: tuple[Part, ...]


def parts_mask(view: LayerView) -> Tensor:
    """A mask, bool [rows, 1, 1, L] and False in padding, that carries the calls for ``view`` as its attribute
    ``calls``. transformers hands masks of four dimensions to attention functions as they are."""
    mask = (view.rows.segments >= PROMPT)[:, None, None]
    mask.calls = flash_calls(view)
    return mask


def flash_calls(view: LayerView) -> tuple[JointQueries, ...]:
    """The queries of ``view``, divided into those of prompts and of completions.

    Raises ValueError if images see in both directions, which flash attention cannot do.
    """
    if view.image_of is not None:
        raise ValueError("flash attention is causal, and the tokens of an image see each other")
    segments, first = view.rows.segments, view.rows.first_query
    prompt, completion = segments == PROMPT, segments > PROMPT
    asking, answering = prompt[:, first:], completion[:, first:]
    calls = []
    if bool(asking.any()):
        part = Part.of(_places(prompt), asking.sum(dim=1), prompt.sum(dim=1), causal=True, window=view.window)
        calls.append(JointQueries(_places(asking), (part,)))
    if bool(answering.any()):
        parts = _windowed(view) if view.window is not None else _whole(prompt, completion, answering, segments)
        calls.append(JointQueries(_places(answering), parts))
    return tuple(calls)


def _whole(prompt: Tensor, completion: Tensor, answering: Tensor, segments: Tensor) -> tuple[Part, ...]:
    """The parts of completions that see all of their prompts: these, and themselves."""
    lengths = _completions(segments)[1]
    own = Part.of(_places(completion), lengths, lengths, causal=True)
    if not bool(prompt.any()):
        return (own,)
    return Part.of(_places(prompt), answering.sum(dim=1), prompt.sum(dim=1), causal=False), own


def _windowed(view: LayerView) -> tuple[Part, ...]:
    """One part of completions that see a window: the last keys of each one's prompt and its own."""
    segments, tail = view.rows.segments, view.window - 1
    rows, lengths = _completions(segments)
    prompts = _places(segments == PROMPT).split((segments == PROMPT).sum(dim=1).tolist())
    owns = _places(segments > PROMPT).split(lengths.tolist())
    tails = [prompt[max(0, len(prompt) - tail) :] for prompt in prompts]
    pieces = [torch.cat([tails[row], own]) for row, own in zip(rows.tolist(), owns, strict=True)]
    counts = torch.tensor([len(piece) for piece in pieces], device=segments.device)
    return (Part.of(torch.cat(pieces), lengths, counts, causal=True, window=view.window),)


def _completions(segments: Tensor) -> tuple[Tensor, Tensor]:
    """The row [N] of each completion and its number of tokens [N], row by row."""
    row, column = (segments > PROMPT).nonzero(as_tuple=True)
    found, lengths = torch.stack([row, segments[row, column]]).unique_consecutive(dim=1, return_counts=True)
    return found[0], lengths


def _places(chosen: Tensor) -> Tensor:
    """Numbers of the True entries of ``chosen`` [rows, width], row by row."""
    return chosen.flatten().nonzero().squeeze(1)


def attend_parts(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **others: object,
) -> tuple[Tensor, None]:
    """Attention of [rows, query heads, Q, head size] to [rows, heads, L, head size] under a `parts_mask`, with the
    signature that transformers asks for. Returns [rows, Q, query heads, head size], 0 in padding. Under any other mask
    it is flash attention."""
    calls: Sequence[JointQueries] | None = getattr(attention_mask, "calls", None)
    if calls is None and attention_mask is not None and attention_mask.ndim == 4:
        raise ValueError("the mask of packed rows has lost its calls")
    if calls is None:
        others |= {"dropout": dropout, "scaling": scaling}
        with attention_named([module.config], FLASH):
            return flash_attention_forward(module, query, key, value, attention_mask, **others)
    refuse_unknown(others, dropout)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    queries, keys, values = (part.transpose(1, 2).flatten(0, 1) for part in (query, key, value))
    result = torch.zeros_like(queries)
    for call in calls:
        pairs = [(keys[part.places], values[part.places]) for part in call.parts]
        result = result.index_copy(0, call.places, attend_jointly(queries[call.places], pairs, call.parts, scale))
    return result.unflatten(0, (query.shape[0], query.shape[2])), None


AttentionInterface.register(PARTS, attend_parts)
AttentionMaskInterface.register(PARTS, ALL_MASK_ATTENTION_FUNCTIONS[FLASH])

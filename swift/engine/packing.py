"""Packed rows, one per group: the prompt once, then its completions, each of which sees the prompt and itself only.

A prompt with an X-ray is 500 to 3,000 tokens long and a completion at most a few hundred. Repeating the prompt for each
of G completions would spend most of the work on copies. In a packed row the position ids of every completion start
after the prompt, so each token gets the hidden state that it would have in a row of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from swift.engine.batch import Completions, PromptBatch
from swift.engine.model_inputs import next_positions

PADDING = -1
PROMPT = 0


@dataclass(frozen=True)
class PackedRows:
    """Tokens of packed rows, the last of which ask and all of which are asked."""

    segments: Tensor  # [rows, L] PADDING, PROMPT, or the number of a completion in its group from 1
    order: Tensor  # [rows, L] number of each token in its own sequence
    queries: int  # Q, tokens at the ends of rows for which attention is computed

    def __post_init__(self) -> None:
        if self.segments.shape != self.order.shape or self.queries > self.segments.shape[1]:
            raise ValueError(f"{tuple(self.segments.shape)} segments, {tuple(self.order.shape)} in order")

    @property
    def first_query(self) -> int:
        """Column of the first token for which attention is computed."""
        return self.segments.shape[1] - self.queries


@dataclass(frozen=True)
class Layout:
    """Places of prompt and completion tokens in a model input, and the hidden states that predict each token.

    The input is the prompts' left-padded block [rows, P] followed by a block of completion tokens [rows, L - P].
    """

    suffix_ids: Tensor  # [rows, L - P] completion tokens
    position_ids: Tensor  # [rows, L], or [3, rows, L] if the prompts' positions are [3, B, P]
    visible: PackedRows | Tensor  # when plain, long [rows, L] with 0 in padding
    predictor_rows: Tensor  # [T] flat index (row * L + column) of the hidden state that predicts each token
    targets: Tensor  # [T] completion tokens, completion by completion
    repeats: int  # rows per prompt: 1 when packed, G when plain

    def __post_init__(self) -> None:
        if self.predictor_rows.shape != self.targets.shape:
            raise ValueError(f"{len(self.predictor_rows)} predictors for {len(self.targets)} tokens")


def plain_layout(prompts: PromptBatch, completions: Completions, positions: Tensor | None = None) -> Layout:
    """A row [prompt, completion] for every completion. This form is right for every model.

    ``positions`` [B, P] or [3, B, P] are those of the prompts' tokens. By default tokens are counted.
    """
    repeats = group_size(prompts, completions)
    positions = prompts.order if positions is None else positions
    prompt_mask = prompts.mask.repeat_interleave(repeats, dim=0)
    mask = torch.cat([prompt_mask, completions.mask], dim=1)
    width = mask.shape[1]
    first = torch.arange(len(mask), device=mask.device)[:, None] * width + prompts.mask.shape[1] - 1
    steps = torch.arange(completions.ids.shape[1], device=mask.device)
    suffix = next_positions(positions, prompts.mask).repeat_interleave(repeats)[:, None] + steps
    return Layout(
        suffix_ids=completions.ids,
        position_ids=_join(positions.repeat_interleave(repeats, dim=-2), suffix),
        visible=mask.long(),
        predictor_rows=(first + steps)[completions.mask],
        targets=completions.ids[completions.mask],
        repeats=repeats,
    )


def packed_layout(prompts: PromptBatch, completions: Completions, positions: Tensor | None = None) -> Layout:
    """A row [prompt, c1, ..., cG] for every group, without padding between completions.

    ``positions`` are as in `plain_layout`.
    """
    size = group_size(prompts, completions)
    positions = prompts.order if positions is None else positions
    device = completions.ids.device
    batch, prompt_width = prompts.mask.shape
    lengths = completions.lengths.view(batch, size)
    starts = (lengths.cumsum(dim=1) - lengths).flatten()  # [N] column of each completion within the suffix
    suffix_width = int(lengths.sum(dim=1).max())
    width = prompt_width + suffix_width

    completion_of, step_of = completions.mask.nonzero(as_tuple=True)  # [T], [T]
    row_of = completion_of // size
    column_of = starts[completion_of] + step_of

    suffix_ids = completions.ids.new_zeros(batch, suffix_width)
    segments = torch.full((batch, width), PADDING, device=device)
    segments[:, :prompt_width] = torch.where(prompts.mask, PROMPT, PADDING)
    step = torch.zeros(batch, suffix_width, dtype=torch.long, device=device)

    targets = completions.ids[completions.mask]
    suffix_ids[row_of, column_of] = targets
    segments[row_of, prompt_width + column_of] = completion_of % size + 1
    step[row_of, column_of] = step_of

    previous = torch.where(step_of == 0, prompt_width - 1, prompt_width + column_of - 1)
    return Layout(
        suffix_ids=suffix_ids,
        position_ids=_join(positions, next_positions(positions, prompts.mask)[:, None] + step),
        visible=PackedRows(segments, _join(prompts.order, prompts.lengths[:, None] + step), width),
        predictor_rows=row_of * width + previous,
        targets=targets,
        repeats=1,
    )


def _join(prompt: Tensor, suffix: Tensor) -> Tensor:
    """Concatenate [rows, P] and [rows, L - P]. If the first is [3, rows, P], the second is repeated three times."""
    return torch.cat([prompt, suffix.expand(*prompt.shape[:-1], -1)], dim=-1)


def group_mask(segments: Tensor, queries: int) -> Tensor:
    """Causal mask of packed rows, bool [rows, Q (query), L (key)], from ``segments`` [rows, L].

    The last ``queries`` (Q) tokens ask. A query sees the keys of its own segment and those of the prompt. Padding sees
    itself only, since a softmax over no key is not a number.
    """
    length = segments.shape[1]
    first = length - queries
    query, key = segments[:, first:, None], segments[:, None, :]
    visible = ((query == key) | (key == PROMPT)) & (query != PADDING)
    return visible.tril_(first) | torch.eye(length, dtype=torch.bool, device=segments.device)[first:]


def group_size(prompts: PromptBatch, completions: Completions) -> int:
    """G, the number of completions per prompt. Raises ValueError if it differs between prompts."""
    size, remainder = divmod(len(completions), len(prompts))
    if remainder or not size:
        raise ValueError(f"{len(completions)} completions do not divide into {len(prompts)} groups")
    return size

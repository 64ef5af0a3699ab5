"""The decoding loop of training and evaluation.

All prompts of a batch are read in one forward pass, which also gives the logits of every first token. From there each
step feeds one token per open completion. Completions that have ended leave when it pays, and a prompt leaves with the
last of its completions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from swift.engine.batch import PromptBatch
from swift.engine.model_inputs import next_positions, prompt_positions, token_types
from swift.engine.rollout.choosing import Chooser, Sampling
from swift.engine.rollout.group_cache import GroupCache, grouped_attention, why_not_grouped
from swift.engine.rollout.pace import Pace
from swift.utils.stages import count_work, staged

LEAVING = 8  # one in so many rows must have ended before rows leave, since the others are copied

# Logits [M, V] of the next tokens, from the model, tokens [M], positions [M] or [3, M], and the cache
StepFunction = Callable[[nn.Module, Tensor, Tensor, GroupCache], Tensor]


@dataclass(frozen=True)
class Prefilled:
    """The result of reading B prompts."""

    cache: GroupCache
    logits: Tensor  # [B, V] of the first token
    positions: Tensor  # of the first token: [B], or [3, B] if the model has three positions per token


def look_every(device: torch.device) -> int:
    """Tokens between looks at what has ended. A look waits for the device."""
    return 1 if device.type == "cpu" else 8


def eager_step(model: nn.Module, tokens: Tensor, positions: Tensor, cache: GroupCache) -> Tensor:
    """A `StepFunction` that calls the model."""
    output = model(input_ids=tokens[:, None], position_ids=positions[..., None], past_key_values=cache, use_cache=True)
    return output.logits[:, -1]


@staged("prefill")
def prefill(model: nn.Module, prompts: PromptBatch, group_size: int, new_tokens: int, *, fixed: bool) -> Prefilled:
    """Read the prompts once each. Raises ValueError if the model's cache cannot be shared by a group."""
    if reason := why_not_grouped(model):
        raise ValueError(reason)
    count_work(prompts.mask.numel(), len(prompts))
    images = prompts.image_inputs()
    positions = prompt_positions(model, prompts.input_ids, prompts.order, prompts.mask, images)
    if prompts.embeds is not None:
        inputs = {"inputs_embeds": prompts.embeds}
    else:
        inputs = {"input_ids": prompts.input_ids, **token_types(model, prompts.input_ids), **images}
    output = model(
        **inputs,
        attention_mask=prompts.mask.long(),
        position_ids=positions,
        use_cache=True,
        logits_to_keep=1,
    )
    cache = GroupCache(output.past_key_values, prompts.order, prompts.mask, group_size, new_tokens, fixed=fixed)
    first = next_positions(positions, prompts.mask)
    return Prefilled(cache, output.logits[:, -1], first if positions.ndim == 2 else first.expand(3, -1))


class OpenRows:
    """The completions that are still decoded: M rows, in groups of adjacent ones."""

    def __init__(self, first: Tensor, group_size: int, *, padded: bool) -> None:
        """``first`` [B] or [3, B] are the positions of the first tokens. If ``padded``, the numbers of rows, prompts
        and places per prompt are halved or kept, never anything between, and copies fill up what is missing."""
        prompts = first.shape[-1]
        self.index = torch.arange(prompts * group_size, device=first.device)  # [M] number of the completion
        self.prompt = self.index // group_size  # [M] place of its prompt among those kept
        self.first = first.repeat_interleave(group_size, dim=-1)  # [M] or [3, M]
        self.ended = torch.zeros_like(self.index, dtype=torch.bool)  # [M]
        self.copies = self.ended.clone()  # [M] True for the copies of another row
        self.padded = padded
        self.sizes = [len(self.index), prompts, group_size]  # rows, prompts, places per prompt

    def leave(self, cache: GroupCache) -> bool:
        """Let the rows that have ended leave if it pays. Returns False if no row is open."""
        open_rows = (~(self.ended | self.copies)).nonzero().squeeze(1)
        if len(open_rows) in (0, self.sizes[0]):
            return len(open_rows) > 0
        prompts, prompt = self.prompt[open_rows].unique_consecutive(return_inverse=True)
        counts = torch.bincount(prompt)
        needed = [len(open_rows), len(prompts), int(counts.max())]
        if self.padded:
            sizes = [_halved(size, need) for size, need in zip(self.sizes, needed, strict=True)]
            pays = sizes[0] < self.sizes[0]
        else:
            sizes = needed
            pays = (self.sizes[0] - sizes[0]) * LEAVING >= self.sizes[0]
        if pays:
            self._move(cache, open_rows, prompts, prompt, counts, sizes)
        return True

    def _move(
        self, cache: GroupCache, rows: Tensor, prompts: Tensor, prompt: Tensor, counts: Tensor, sizes: list[int]
    ) -> None:
        within = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[prompt]
        places = prompt * sizes[2] + within
        table = rows.new_zeros(sizes[1], sizes[2])  # a place without a row computes something that nobody reads
        table.view(-1)[places] = torch.arange(len(rows), device=rows.device)
        self.copies = torch.arange(sizes[0], device=rows.device) >= len(rows)
        rows, places, self.prompt = (_filled(column, sizes[0]) for column in (rows, places, prompt))
        self.index, self.first, self.ended = self.index[rows], self.first[..., rows], self.ended[rows]
        cache.keep(rows, _filled(prompts, sizes[1]), table, places)
        self.sizes = sizes


def _halved(size: int, needed: int) -> int:
    """The least of ``size``, a half of it, a quarter, and so on, rounded up, that is at least ``needed`` and 2. The
    compiler makes another graph for sizes of 1."""
    while size > 2 and -(-size // 2) >= max(2, needed):
        size = -(-size // 2)
    return size


def _filled(column: Tensor, size: int) -> Tensor:
    """``column`` [M] made ``size`` long with copies of its last entry."""
    return torch.cat([column, column[-1:].expand(size - len(column))])


def decode_groups(
    model: nn.Module,
    prompts: PromptBatch,
    group_size: int,
    sampling: Sampling,
    chooser: Chooser,
    *,
    pace: Pace,
    step_function: StepFunction | None = None,
) -> tuple[Tensor, Tensor]:
    """Up to ``sampling.max_new_tokens`` tokens of each completion, [N, C], and which have ended by a stop, bool [N].

    Rows are padded after their stop. ``step_function`` needs fixed shapes; without one the model is called.
    """
    fixed = step_function is not None
    limit, device = sampling.max_new_tokens, prompts.input_ids.device
    pace.pass_begins()
    read = prefill(model, prompts, group_size, limit, fixed=fixed)
    rows, logits = OpenRows(read.positions, group_size, padded=fixed), read.logits.repeat_interleave(group_size, dim=0)
    stops = torch.tensor(sampling.stop_token_ids, device=device)
    tokens = prompts.input_ids.new_full((len(rows.index), limit), sampling.pad_token_id)
    ended = torch.zeros(len(tokens), dtype=torch.bool, device=device)
    stage = look_every(device)
    step_function = step_function or eager_step
    with grouped_attention(model):
        for step in range(limit):
            chosen = chooser(logits, rows.index, step).masked_fill(rows.ended, sampling.pad_token_id)
            tokens[rows.index, step] = chosen
            rows.ended |= torch.isin(chosen, stops)
            ended[rows.index] = rows.ended
            if step + 1 == limit or (step + 1) % stage == 0:
                if not rows.leave(read.cache):
                    break
                chosen = tokens[rows.index, step]
            if step + 1 < limit:
                pace.pass_begins()
                read.cache.begin_step(step)
                count_work(len(chosen), len(chosen))
                logits = step_function(model, chosen, rows.first + step, read.cache)
    return tokens, ended

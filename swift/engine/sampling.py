"""Sampling of completions. A group reads its prompt once, and all groups are decoded in one batch, or in as few slices
as memory allows.

Slices, like batches, change no completion (see choosing.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from swift.engine.batch import Completions, PromptBatch
from swift.engine.rollout.choosing import Chooser, PartChooser, Sampling, TokenChooser
from swift.engine.rollout.compiled_step import compiled_step
from swift.engine.rollout.decoding import decode_groups
from swift.engine.rollout.library_rollout import decode_by_library
from swift.engine.rollout.pace import Pace
from swift.engine.rollout.slices import free_bytes, group_slices
from swift.engine.rollout.stop_words import StopWords
from swift.llm.policy import input_embeddings, rope_switch


@torch.no_grad()
def generate(
    model: nn.Module,
    prompts: PromptBatch,
    group_size: int,
    sampling: Sampling,
    uniforms: Tensor | None = None,
    *,
    shared: bool = True,
    synced: bool = False,
    compiled: bool = False,
) -> Completions:
    """Sample ``group_size`` (G) completions of each prompt. Returns N = B * G completions, groups adjacent.

    ``uniforms`` [N, max_new_tokens] are required unless sampling is greedy. A prompt is read once if ``shared``,
    otherwise once per completion and by transformers' own loop. If ``synced``, all processes make as many forward
    passes as the one with the longest completion, as a model needs that is gathered layer by layer. If ``compiled``,
    the steps of the shared path are compiled.
    """
    chooser = TokenChooser(sampling, uniforms, prompts.input_ids, group_size)
    if shared:
        tokens = decode(model, prompts, group_size, sampling, chooser, synced=synced, compiled=compiled)
    else:
        tokens = decode_by_library(model, prompts, group_size, sampling, chooser, synced=synced)
    chooser.watch.check()
    return trim(tokens, sampling.stop_token_ids, sampling.stop_words)


def decode(
    model: nn.Module,
    prompts: PromptBatch,
    group_size: int,
    sampling: Sampling,
    chooser: Chooser,
    *,
    synced: bool = False,
    compiled: bool = False,
) -> Tensor:
    """The tokens [N, C] that ``chooser`` takes. What follows a stop token is padding."""
    room = free_bytes(prompts.input_ids.device)
    parts = [
        [side[place] for place in part]
        for side in _sides_of_switch(model, prompts, sampling.max_new_tokens)
        for part in group_slices(
            prompts.lengths[side],
            group_size,
            sampling.max_new_tokens,
            model.config.get_text_config(),
            model.dtype.itemsize,
            room,
        )
    ]
    pace = Pace(model, synced=synced)
    within = torch.arange(group_size, device=prompts.input_ids.device)
    tokens = prompts.input_ids.new_full((len(prompts) * group_size, sampling.max_new_tokens), sampling.pad_token_id)
    for turn in range(pace.most(len(parts))):
        part = parts[min(turn, len(parts) - 1)]  # a process with fewer slices repeats its last one
        rows = (torch.tensor(part, device=within.device)[:, None] * group_size + within).flatten()
        chosen = PartChooser(chooser, rows)
        tokens[rows] = _decode_part(model, prompts.select(part), group_size, sampling, chosen, pace, compiled)
        pace.finish()
    return tokens


def _sides_of_switch(model: nn.Module, prompts: PromptBatch, new_tokens: int) -> list[list[int]]:
    """The places of prompts, divided such that a longrope model uses the same rotary frequencies in all of a part.

    It takes those of long sequences for a whole batch. Prompts whose completions may cross the length at which that
    happens are with others of their own length only.
    """
    switch, everyone = rope_switch(model), list(range(len(prompts)))
    if switch is None:
        return [everyone]
    lengths = prompts.lengths.tolist()
    sides: dict[int, list[int]] = {}
    for place in everyone:
        length = lengths[place]
        crosses = length <= switch < length + new_tokens
        sides.setdefault(length if crosses else -1 if length <= switch else -2, []).append(place)
    return list(sides.values())


def _decode_part(
    model: nn.Module,
    prompts: PromptBatch,
    group_size: int,
    sampling: Sampling,
    chooser: Chooser,
    pace: Pace,
    compiled: bool,
) -> Tensor:
    """The tokens [N, C] of prompts on one side of the length at which rotary frequencies change.

    Completions that reach it are read anew with their prompts, as the keys of all tokens change.
    """
    step_function = compiled_step(prompts.input_ids.device) if compiled else None
    switch, length = rope_switch(model), prompts.lengths.max()
    until = sampling.max_new_tokens
    if switch is not None and length <= switch:
        until = min(until, switch - int(length) + 1)
    stage = replace(sampling, max_new_tokens=until)
    tokens, ended = decode_groups(model, prompts, group_size, stage, chooser, pace=pace, step_function=step_function)
    if until == sampling.max_new_tokens:
        return tokens
    whole = tokens.new_full((len(tokens), sampling.max_new_tokens), sampling.pad_token_id)
    whole[:, :until] = tokens
    for row in (~ended).nonzero().flatten().tolist():
        longer = _extended(model, prompts.select([row // group_size]), tokens[row : row + 1])
        later = PartChooser(chooser, torch.tensor([row], device=tokens.device), until)
        remaining = replace(sampling, max_new_tokens=sampling.max_new_tokens - until)
        whole[row, until:] = _decode_part(model, longer, 1, remaining, later, pace, compiled)[0]
    return whole


def _extended(model: nn.Module, prompts: PromptBatch, tokens: Tensor) -> PromptBatch:
    """``prompts`` with ``tokens`` [B, C] at their ends."""
    embeds = prompts.embeds
    if embeds is not None:
        embeds = torch.cat([embeds, input_embeddings(model)(tokens).to(embeds.dtype)], dim=1)
    return PromptBatch(
        torch.cat([prompts.input_ids, tokens], dim=1),
        torch.cat([prompts.mask, torch.ones_like(tokens, dtype=torch.bool)], dim=1),
        prompts.pictures,
        embeds,
    )


def trim(ids: Tensor, stop_token_ids: Sequence[int], stop_words: StopWords | None = None) -> Completions:
    """Cut each row after its first stop token, or with the end of its first stop word if that comes earlier."""
    stops = torch.isin(ids, torch.tensor(stop_token_ids, device=ids.device))
    finished = stops.any(dim=1)
    lengths = torch.where(finished, stops.int().argmax(dim=1) + 1, ids.shape[1])
    for row, length in enumerate(lengths.tolist() if stop_words is not None else ()):
        if (end := stop_words.end(ids[row, :length].tolist())) is not None:
            lengths[row], finished[row] = end, True
    return Completions(ids[:, : int(lengths.max())], lengths, finished)

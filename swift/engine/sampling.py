"""Sampling of completions. A prompt is prefilled once, its cache is repeated for the group, and all groups are decoded
in one batch.

Sampling is by inversion: a uniform number per token picks the token whose slice of the cumulative distribution it falls
into. The numbers are drawn beforehand from (seed, step, attempt, prompt). The distribution is that of multinomial
sampling, but a completion depends neither on the other prompts of its batch nor on the number of processes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    Cache,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteriaList,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from swift.engine.batch import Completions, PromptBatch
from swift.engine.model_inputs import next_positions, prompt_positions, remember_positions, token_types
from swift.engine.stop_words import RepetitionPenalty, StopWords
from swift.llm.policy import is_phi4
from swift.utils.errors import UserError


@dataclass(frozen=True)
class Sampling:
    """Settings of sampling. Temperature 0 is greedy. ``top_k`` 0 and ``top_p`` 1 leave the distribution whole."""

    max_new_tokens: int
    stop_token_ids: tuple[int, ...]
    pad_token_id: int
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    banned_token_ids: tuple[int, ...] = ()
    repetition_penalty: float = 1.0
    stop_words: StopWords | None = None


def prompt_uniforms(seed: tuple[int, ...], count: int, length: int) -> np.ndarray:
    """Uniform numbers in [0, 1), of shape [count, length], for the completions of one prompt.

    ``seed`` is a key such as (seed, step, prompt).
    """
    return np.random.default_rng(seed).random((count, length))


class InversionSampler(LogitsProcessor):
    """Leaves one token per row, the one whose slice of the cumulative distribution holds the row's uniform number.

    ``uniforms`` are [N, max_new_tokens] in [0, 1). ``prompt_width`` is the number of columns before the first new
    token.
    """

    def __init__(self, uniforms: Tensor, prompt_width: int) -> None:
        self.uniforms = uniforms
        self.prompt_width = prompt_width

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        chosen = invert(
            scores.softmax(dim=-1, dtype=torch.float32), self.uniforms[:, input_ids.shape[1] - self.prompt_width]
        )
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen[:, None], 0)


class NanWatch(LogitsProcessor):
    """Notices logits that are not numbers, without waiting for the device at every token."""

    def __init__(self) -> None:
        self.seen: Tensor | None = None  # bool []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        nan = scores.sum(dim=-1, dtype=torch.float32).isnan().any()
        self.seen = nan if self.seen is None else self.seen | nan
        return scores

    def check(self) -> None:
        """Raise UserError if any logits were NaN."""
        if self.seen is not None and bool(self.seen):
            raise UserError(
                "the policy computes NaN: its weights are damaged or diverged; take an older checkpoint, or train "
                "with a lower --learning_rate"
            )


def invert(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """Index of the first token whose cumulative probability exceeds the uniform number. [N, V], [N] -> [N].

    Probabilities are summed in float64 and the threshold is kept below their total. Rounding can therefore neither run
    past the last token nor choose a token of probability zero.
    """
    cumulative = probabilities.double().cumsum(dim=-1)
    total = cumulative[:, -1:]
    threshold = torch.minimum(uniforms[:, None].to(total) * total, torch.nextafter(total, torch.zeros_like(total)))
    found = torch.searchsorted(cumulative, threshold, right=True).squeeze(1)
    return found.clamp(max=probabilities.shape[1] - 1)  # NaN would give an index past the end; NanWatch reports it


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
) -> Completions:
    """Sample ``group_size`` (G) completions of each prompt. Returns N = B * G completions, groups adjacent.

    A prompt is prefilled once if ``shared``, otherwise once per completion. ``uniforms`` [N, max_new_tokens] are
    required unless sampling is greedy. If ``synced``, all processes make as many forward passes as the one with the
    longest completion, as a model needs that is gathered layer by layer.
    """
    # A group of one has no prompt to share, so transformers may prefill it, except for Phi-4, whose images would be
    # encoded again at every token.
    shared = shared and (group_size > 1 or is_phi4(model))
    watch = NanWatch()
    draw = sampling_processors(sampling, uniforms, prompts, watch)
    tokens = decode(model, prompts, group_size, sampling, draw, shared=shared, synced=synced)
    watch.check()
    return trim(tokens, sampling.stop_token_ids, sampling.stop_words)


def decode(
    model: nn.Module,
    prompts: PromptBatch,
    group_size: int,
    sampling: Sampling,
    processors: LogitsProcessorList,
    *,
    shared: bool,
    synced: bool = False,
) -> Tensor:
    """The tokens [N, C] that ``processors`` choose, including any after a stop token."""
    if shared:
        inputs = {"past_key_values": prefill(model, prompts, group_size)}
        rows = prompts.with_embeds(None).repeat(group_size)
    else:
        rows = prompts.repeat(group_size)
        inputs = rows.image_inputs() | token_types(model, rows.input_ids)
    if sampling.stop_words is not None:
        criterion = sampling.stop_words.criterion(rows.input_ids.shape[1])
        inputs["stopping_criteria"] = StoppingCriteriaList([criterion])
    with own_settings_aside(model):
        output = model.generate(
            rows.input_ids,
            attention_mask=rows.mask.long(),
            generation_config=generation_config(sampling, sampling.max_new_tokens),
            logits_processor=processors,
            synced_gpus=synced,
            **inputs,
        )
    return output[:, rows.input_ids.shape[1] :]


def generation_config(sampling: Sampling, new_tokens: int) -> GenerationConfig:
    """Settings for `generate` to take the tokens that the logits processors choose, up to ``new_tokens`` or a stop."""
    return GenerationConfig(
        max_new_tokens=new_tokens,
        do_sample=False,
        eos_token_id=list(sampling.stop_token_ids),
        pad_token_id=sampling.pad_token_id,
    )


@contextmanager
def own_settings_aside(model: nn.Module) -> Iterator[None]:
    """Ignore the checkpoint's generation_config.json within the block.

    `generate` takes from it all settings that a call does not give: penalties, forced and suppressed tokens, a kind of
    cache. Completions would then be sampled from another distribution than the one that is scored.
    """
    own_settings, model.generation_config = model.generation_config, GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own_settings


def prefill(model: nn.Module, prompts: PromptBatch, group_size: int) -> Cache:
    """The cache of all prompt tokens but the last, repeated ``group_size`` times per prompt.

    The decoding loop feeds the last token itself.
    """
    images = prompts.image_inputs()
    positions = prompt_positions(model, prompts.input_ids, prompts.order, prompts.mask, images)
    if prompts.embeds is not None:
        inputs = {"inputs_embeds": prompts.embeds[:, :-1]}
    else:
        input_ids = prompts.input_ids[:, :-1]
        inputs = {"input_ids": input_ids, **token_types(model, input_ids), **images}
    cache = model(
        **inputs,
        attention_mask=prompts.mask[:, :-1].long(),
        position_ids=positions[..., :-1],
        use_cache=True,
        logits_to_keep=1,
    ).past_key_values
    cache.batch_repeat_interleave(group_size)
    deltas = next_positions(positions, prompts.mask) - prompts.lengths
    remember_positions(model, deltas.repeat_interleave(group_size))
    return cache


def sampling_processors(
    sampling: Sampling, uniforms: Tensor | None, prompts: PromptBatch, watch: NanWatch
) -> LogitsProcessorList:
    """The logits processors that choose one token per row, in the order in which they apply."""
    device, processors = prompts.input_ids.device, LogitsProcessorList([watch])
    if sampling.banned_token_ids:
        processors.append(SuppressTokensLogitsProcessor(list(sampling.banned_token_ids), device=device))
    if sampling.repetition_penalty != 1:
        processors.append(RepetitionPenalty(sampling.repetition_penalty, sampling.pad_token_id))
    if sampling.temperature == 0:
        return processors
    if uniforms is None:
        raise ValueError("sampling at a temperature above 0 needs uniform numbers, one per completion and token")
    if sampling.temperature != 1:
        processors.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k:
        processors.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        processors.append(TopPLogitsWarper(sampling.top_p))
    processors.append(InversionSampler(uniforms.to(device), prompts.input_ids.shape[1]))
    return processors


def trim(ids: Tensor, stop_token_ids: tuple[int, ...], stop_words: StopWords | None = None) -> Completions:
    """Cut each row after its first stop token, or with the end of its first stop word if that comes earlier."""
    stops = torch.isin(ids, torch.tensor(stop_token_ids, device=ids.device))
    finished = stops.any(dim=1)
    lengths = torch.where(finished, stops.int().argmax(dim=1) + 1, ids.shape[1])
    for row, length in enumerate(lengths.tolist() if stop_words is not None else ()):
        if (end := stop_words.end(ids[row, :length].tolist())) is not None:
            lengths[row], finished[row] = end, True
    return Completions(ids[:, : int(lengths.max())], lengths, finished)

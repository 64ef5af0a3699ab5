"""Sampling completions: a prompt is prefilled once, its cache repeated for the group, and the whole step decoded in
one batch.

Sampling is by inversion: one uniform number per token, drawn beforehand from (seed, step, attempt, prompt), picks the
token whose slice of the cumulative distribution it falls into. The distribution is the same as multinomial sampling's,
and a completion no longer depends on which other prompts share its batch or on how many processes there are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    Cache,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from swift.trainers.rlhf_trainer.batch import Completions, PromptBatch

# `generate` fills what a call leaves open from the checkpoint's generation_config.json; these would bend the
# distribution that is scored.
NEUTRAL = {"repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "min_length": 0, "num_beams": 1}


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn. Temperature 0 is greedy; ``top_k`` 0 and ``top_p`` 1 cut nothing off."""

    max_new_tokens: int
    stop_token_ids: tuple[int, ...]
    pad_token_id: int
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    banned_token_ids: tuple[int, ...] = ()


def prompt_uniforms(seed: tuple[int, ...], count: int, length: int) -> np.ndarray:
    """Uniform numbers [count, length] for the completions of one prompt, from a key such as (seed, step, prompt)."""
    return np.random.default_rng(seed).random((count, length))


class InversionSampler(LogitsProcessor):
    """Leaves one token per row: the one whose slice of the cumulative distribution holds the row's uniform number.

    ``uniforms`` [N, max_new_tokens] in [0, 1); ``prompt_width`` is the number of columns before the first new token.
    """

    def __init__(self, uniforms: Tensor, prompt_width: int) -> None:
        self.uniforms = uniforms
        self.prompt_width = prompt_width

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        chosen = invert(
            scores.softmax(dim=-1, dtype=torch.float32), self.uniforms[:, input_ids.shape[1] - self.prompt_width]
        )
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen[:, None], 0)


def invert(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """Index of the first token whose cumulative probability exceeds the uniform number. [N, V], [N] -> [N].

    Cumulated in float64 and kept below its own total, so that rounding can neither run past the last token nor choose
    one of probability zero.
    """
    cumulative = probabilities.double().cumsum(dim=-1)
    total = cumulative[:, -1:]
    threshold = torch.minimum(uniforms[:, None].to(total) * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, threshold, right=True).squeeze(1)


@torch.no_grad()
def generate(
    model: nn.Module, prompts: PromptBatch, group_size: int, sampling: Sampling, uniforms: Tensor | None = None
) -> Completions:
    """``group_size`` completions of each prompt, prefilled once per prompt.

    ``uniforms`` [B * G, max_new_tokens] are needed unless greedy. Returns N = B * G completions, groups adjacent.
    """
    cache = _prefill(model, prompts)
    cache.batch_repeat_interleave(group_size)
    repeated = replace(prompts, images={}, embeds=None).repeat(group_size)
    return _decode(model, repeated, sampling, uniforms, past_key_values=cache)


@torch.no_grad()
def generate_plain(
    model: nn.Module, prompts: PromptBatch, group_size: int, sampling: Sampling, uniforms: Tensor | None = None
) -> Completions:
    """The same with every prompt repeated and prefilled ``group_size`` times: the obvious form, to compare with."""
    repeated = prompts.repeat(group_size)
    return _decode(model, repeated, sampling, uniforms, **repeated.images)


def _prefill(model: nn.Module, prompts: PromptBatch) -> Cache:
    """The cache of all prompt tokens but the last, which the decoding loop feeds itself."""
    if prompts.embeds is not None:
        inputs = {"inputs_embeds": prompts.embeds[:, :-1]}
    else:
        inputs = {"input_ids": prompts.input_ids[:, :-1], **prompts.images}
    return model(
        **inputs,
        attention_mask=prompts.mask[:, :-1].long(),
        position_ids=prompts.position_ids[:, :-1],
        use_cache=True,
        logits_to_keep=1,
    ).past_key_values


def _decode(
    model: nn.Module, prompts: PromptBatch, sampling: Sampling, uniforms: Tensor | None, **inputs
) -> Completions:
    width = prompts.input_ids.shape[1]
    output = model.generate(
        prompts.input_ids,
        attention_mask=prompts.mask.long(),
        generation_config=GenerationConfig(
            max_new_tokens=sampling.max_new_tokens,
            do_sample=False,
            eos_token_id=list(sampling.stop_token_ids),
            pad_token_id=sampling.pad_token_id,
            **NEUTRAL,
        ),
        logits_processor=_processors(sampling, uniforms, width, prompts.input_ids.device),
        **inputs,
    )
    return _trim(output[:, width:], sampling.stop_token_ids)


def _processors(sampling: Sampling, uniforms: Tensor | None, width: int, device: torch.device) -> LogitsProcessorList:
    processors = LogitsProcessorList()
    if sampling.banned_token_ids:
        processors.append(SuppressTokensLogitsProcessor(list(sampling.banned_token_ids), device=device))
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
    processors.append(InversionSampler(uniforms.to(device), width))
    return processors


def _trim(ids: Tensor, stop_token_ids: tuple[int, ...]) -> Completions:
    """Cut each row after its first stop token."""
    stops = torch.isin(ids, torch.tensor(stop_token_ids, device=ids.device))
    finished = stops.any(dim=1)
    lengths = torch.where(finished, stops.int().argmax(dim=1) + 1, ids.shape[1])
    return Completions(ids[:, : int(lengths.max())], lengths, finished)

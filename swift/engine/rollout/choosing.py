"""The choice of the next token: greedy, or sampled by inversion.

A uniform number per token picks the token whose slice of the cumulative distribution it falls into. The numbers are
drawn beforehand from (seed, step, attempt, prompt). The distribution is that of multinomial sampling, but a completion
depends neither on the other prompts of its batch nor on the number of processes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from swift.engine.rollout.stop_words import RepetitionPenalty, StopWords
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


class Chooser(Protocol):
    """Chooses the next token of completions."""

    def __call__(self, logits: Tensor, rows: Tensor, step: int) -> Tensor:
        """The tokens [M] of number ``step``, from 0, of the completions ``rows`` [M], from their ``logits`` [M, V]."""
        ...


class NanWatch:
    """Notices logits that are not numbers, without waiting for the device at every token."""

    def __init__(self) -> None:
        self.seen: Tensor | None = None  # bool []

    def look(self, logits: Tensor) -> None:
        """Remember whether any of ``logits`` [M, V] is NaN."""
        nan = logits.sum(dim=-1, dtype=torch.float32).isnan().any()
        self.seen = nan if self.seen is None else self.seen | nan

    def check(self) -> None:
        """Raise UserError if any logits were NaN."""
        if self.seen is not None and bool(self.seen):
            raise UserError(
                "the policy computes NaN: its weights are damaged or diverged; take an older checkpoint, or train "
                "with a lower --learning_rate"
            )


class History:
    """The tokens of N completions so far, after those of their prompts [B, P], which have padding on the left."""

    def __init__(self, prompt_ids: Tensor, count: int, sampling: Sampling) -> None:
        self.prompt_ids, self.group_size = prompt_ids, count // len(prompt_ids)
        self.chosen = prompt_ids.new_full((count, sampling.max_new_tokens), sampling.pad_token_id)

    def with_prompts(self, rows: Tensor, step: int) -> Tensor:
        """The tokens [M, P + step] of prompts and completions."""
        return torch.cat([self.prompt_ids[rows // self.group_size], self.chosen[rows, :step]], dim=1)


class TokenChooser:
    """The chooser of a rollout of ``group_size`` completions for each of the prompts [B, P].

    ``uniforms`` are [N, max_new_tokens] in [0, 1), and are required unless sampling is greedy. A completion with one of
    the stop words in it gets a stop token next.
    """

    def __init__(self, sampling: Sampling, uniforms: Tensor | None, prompt_ids: Tensor, group_size: int) -> None:
        device = prompt_ids.device
        if sampling.temperature != 0 and uniforms is None:
            raise ValueError("sampling at a temperature above 0 needs uniform numbers, one per completion and token")
        self.uniforms = None if sampling.temperature == 0 else uniforms.to(device)
        self.banned = torch.tensor(sampling.banned_token_ids, dtype=torch.long, device=device)
        self.watch = NanWatch()
        self.penalty = self.ends = None
        if sampling.repetition_penalty != 1:
            self.penalty = RepetitionPenalty(sampling.repetition_penalty, sampling.pad_token_id)
        if sampling.stop_words is not None:
            self.ends = sampling.stop_words.criterion(0)
        self.stop = sampling.stop_token_ids[0]
        remembers = self.penalty is not None or self.ends is not None
        self.history = History(prompt_ids, len(prompt_ids) * group_size, sampling) if remembers else None
        self.warpers = LogitsProcessorList()
        if sampling.temperature not in (0, 1):
            self.warpers.append(TemperatureLogitsWarper(sampling.temperature))
        if sampling.top_k:
            self.warpers.append(TopKLogitsWarper(sampling.top_k))
        if sampling.top_p < 1:
            self.warpers.append(TopPLogitsWarper(sampling.top_p))

    def __call__(self, logits: Tensor, rows: Tensor, step: int) -> Tensor:
        """The tokens [M], as `Chooser` says."""
        scores = logits.to(torch.float32, copy=True)
        self.watch.look(scores)
        scores = scores.index_fill_(1, self.banned, -torch.inf)
        if self.penalty is not None:
            scores = self.penalty(self.history.with_prompts(rows, step), scores)
        if self.uniforms is None:
            tokens = scores.argmax(dim=-1)
        else:
            tokens = invert(self.warpers(None, scores).softmax(dim=-1), self.uniforms[rows, step])
        if self.ends is not None:
            tokens = tokens.masked_fill(self.ends(self.history.chosen[rows, :step], scores), self.stop)
        if self.history is not None:
            self.history.chosen[rows, step] = tokens
        return tokens


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


class PartChooser:
    """Lets ``chooser`` choose for the completions ``rows`` [M] alone, from token number ``start``."""

    def __init__(self, chooser: Chooser, rows: Tensor, start: int = 0) -> None:
        self.chooser, self.rows, self.start = chooser, rows, start

    def __call__(self, logits: Tensor, rows: Tensor, step: int) -> Tensor:
        """The tokens [M], as `Chooser` says."""
        return self.chooser(logits, self.rows[rows], step + self.start)

"""Texts that end a completion, besides the stop tokens, and the penalty on tokens that occurred."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import LogitsProcessor, StoppingCriteria

LONGEST_CHARACTER = 4  # bytes, and so at most that many tokens


@dataclass(frozen=True)
class StopWords:
    """Texts of which the first to occur ends a completion, and the function that turns token ids into text."""

    words: tuple[str, ...]
    decode: Callable[[Sequence[int]], str]

    def occur(self, ids: Sequence[int]) -> bool:
        """True if the text of ``ids`` contains one of the words."""
        text = self.decode(ids)
        return any(word in text for word in self.words)

    def end(self, ids: list[int]) -> int | None:
        """Number of leading tokens of ``ids`` with which the first word is complete; None if no word occurs."""
        if not self.occur(ids):
            return None
        return bisect.bisect_left(range(len(ids) + 1), True, key=lambda length: self.occur(ids[:length]))

    def criterion(self, width: int) -> StoppingCriteria:
        """A criterion for `generate` that stops rows with one of the words after their first ``width`` tokens."""
        return _StopAtWords(self, width)


class _StopAtWords(StoppingCriteria):
    """Looks at the last tokens of each row at every step. A token is at least one byte long."""

    def __init__(self, words: StopWords, width: int) -> None:
        self.words, self.width = words, width
        self.tail = max(len(word.encode()) for word in words.words) + LONGEST_CHARACTER

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: object) -> Tensor:
        rows = input_ids[:, max(self.width, input_ids.shape[1] - self.tail) :].tolist()
        return torch.tensor([self.words.occur(row) for row in rows], device=input_ids.device)


class RepetitionPenalty(LogitsProcessor):
    """Divides positive scores of tokens that occurred in prompt or completion by ``penalty``, and multiplies negative
    ones (Keskar et al. 2019, arXiv 1909.05858). Padding on the left, ``pad_token_id``, did not occur."""

    def __init__(self, penalty: float, pad_token_id: int) -> None:
        self.penalty, self.pad_token_id = penalty, pad_token_id

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        padding = (input_ids == self.pad_token_id).long().cumprod(dim=1).bool()
        occurred = torch.where(padding, input_ids[:, -1:], input_ids)
        values = scores.gather(1, occurred)
        penalized = torch.where(values > 0, values / self.penalty, values * self.penalty)
        return scores.scatter(1, occurred, penalized)

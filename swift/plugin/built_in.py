"""The rewards that ms-swift 3.3 has under these names: accuracy, format, cosine, repetition, soft_overlong.

They are written from their definitions. ``accuracy`` also compares answers in words, which ms-swift scores 0. Lengths
are counted in sampled tokens (column ``completion_tokens``), or by the tokenizer without this column.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from swift.plugin.orm import ORM, orms
from utils.answers import answer_span, has_think_answer_shape, in_form_of, parse_answers
from utils.strict_rewards import soft_length_penalty

_NUMBER = re.compile(r"[-+]?[\d.,]*\d[\d.,]*\s*%?")
_LATEX = re.compile(r"\\[a-zA-Z({\[]|\$")


class AccuracyORM(ORM):
    """1.0 if the completion's answer equals the solution's, else 0.0.

    A solution with LaTeX, or that is a number, is compared as mathematics by ``math_verify``. All other answers are
    compared as sets of answers (``utils.answers``), no more and no less.
    """

    is_quick = True

    def __call__(self, completions: list[str], solution: list[str], **columns: list) -> list[float]:
        return [float(is_right(completion, truth)) for completion, truth in zip(completions, solution, strict=True)]


def is_right(completion: str, truth: str) -> bool:
    """True if ``completion`` gives the answer of ``truth``. Raises ImportError for a solution in LaTeX if
    ``math_verify`` is not installed."""
    span = answer_span(truth)
    expected = truth if span is None else span
    if _LATEX.search(expected) or _NUMBER.fullmatch(expected.strip()):
        given = answer_span(completion)
        return _equal_mathematics(completion if given is None else _delimited(given), _delimited(expected))
    reference = parse_answers(truth)
    return in_form_of(parse_answers(completion), reference) == reference


def _delimited(expression: str) -> str:
    """A LaTeX expression between the signs that math_verify looks for."""
    is_bare = "\\" in expression and not re.search(r"\$|\\[(\[]|\\boxed", expression)
    return f"${expression}$" if is_bare else expression


def _equal_mathematics(given: str, expected: str) -> bool:
    try:
        from math_verify import parse, verify
    except ImportError as error:
        if not _LATEX.search(expected):
            return given.strip().rstrip(".") == expected.strip().rstrip(".")
        raise ImportError("accuracy needs math_verify for solutions in LaTeX; run: pip install math_verify") from error
    truth = parse(expected)
    return bool(truth) and verify(truth, parse(given))


class ThinkAnswerORM(ORM):
    """1.0 for one ``<think>`` span, then one ``<answer>`` span, and nothing else but blanks, otherwise 0.0."""

    def __call__(self, completions: list[str], **columns: list) -> list[float]:
        return [float(has_think_answer_shape(completion)) for completion in completions]


class _CountsTokens(ORM):
    """Base of rewards that read the length of completions."""

    def __init__(self, tokenizer: Any = None):
        self.tokenizer = tokenizer

    def lengths(self, completions: list[str], completion_tokens: list[int] | None) -> list[int]:
        """Tokens of each completion. Raises ValueError if nothing can count them."""
        if completion_tokens is not None:
            return completion_tokens
        if self.tokenizer is None:
            raise ValueError("there is neither a column completion_tokens nor a tokenizer to count tokens with")
        return [len(self.tokenizer.encode(text, add_special_tokens=False)) for text in completions]


class CosineORM(_CountsTokens):
    """A value between two for right completions, and between two others for wrong ones, by length: the short end at
    length 0, the long end at ``cosine_max_len`` tokens and beyond, a half cosine in between (arXiv 2502.03373).

    ``accuracy_orm`` decides which completions are right; by default it is ``accuracy``.
    """

    is_quick = True

    def __init__(
        self,
        tokenizer: Any = None,
        cosine_min_len_value_wrong: float = -0.5,
        cosine_max_len_value_wrong: float = 0.0,
        cosine_min_len_value_correct: float = 1.0,
        cosine_max_len_value_correct: float = 0.5,
        cosine_max_len: int | None = None,
        accuracy_orm: Callable | None = None,
        max_completion_length: int = 1000,
    ):
        super().__init__(tokenizer)
        self.wrong = cosine_min_len_value_wrong, cosine_max_len_value_wrong
        self.right = cosine_min_len_value_correct, cosine_max_len_value_correct
        self.longest = max_completion_length if cosine_max_len is None else cosine_max_len
        self.accuracy = accuracy_orm or AccuracyORM()
        if self.longest < 1:
            raise ValueError(f"cosine_max_len {self.longest} must be 1 or more")

    def __call__(
        self, completions: list[str], solution: list[str], completion_tokens: list[int] | None = None, **columns: list
    ) -> list[float]:
        correct = self.accuracy(completions, solution, **columns)
        return [
            half_cosine(length, self.longest, *(self.right if value >= 1 else self.wrong))
            for length, value in zip(self.lengths(completions, completion_tokens), correct, strict=True)
        ]


def half_cosine(length: int, longest: int, short_value: float, long_value: float) -> float:
    """``short_value`` at length 0, ``long_value`` from ``longest`` on, and half a cosine wave in between."""
    share = min(length / longest, 1.0)
    return long_value + (short_value - long_value) * (1 + math.cos(math.pi * share)) / 2


class RepetitionORM(ORM):
    """The share of repeated word sequences of ``repetition_n_grams`` words, times ``repetition_max_penalty``."""

    def __init__(self, repetition_n_grams: int = 3, repetition_max_penalty: float = -1.0):
        self.words, self.penalty = repetition_n_grams, repetition_max_penalty
        if self.words < 1:
            raise ValueError(f"repetition_n_grams {self.words} must be 1 or more")
        if self.penalty > 0:
            raise ValueError(f"repetition_max_penalty {self.penalty} must be 0 or less: it is a penalty")

    def __call__(self, completions: list[str], **columns: list) -> list[float]:
        return [self.penalty * repeated_share(completion, self.words) + 0.0 for completion in completions]  # never -0.0


def repeated_share(text: str, size: int) -> float:
    """1 - distinct / all sequences of ``size`` words, in lower case; 0 if the text has no such sequence."""
    words = text.lower().split()
    sequences = list(zip(*(words[start:] for start in range(size)), strict=False))
    return 1 - len(set(sequences)) / len(sequences) if sequences else 0.0


class SoftOverlongORM(_CountsTokens):
    """0.0 up to ``soft_max_length - soft_cache_length`` tokens, falling in a straight line to -1.0 at
    ``soft_max_length`` and beyond (DAPO, arXiv 2503.14476)."""

    def __init__(
        self,
        tokenizer: Any = None,
        soft_max_length: int | None = None,
        soft_cache_length: int | None = None,
        max_completion_length: int | None = None,
    ):
        super().__init__(tokenizer)
        longest = max_completion_length if soft_max_length is None else soft_max_length
        if soft_cache_length is None or longest is None:
            raise ValueError("soft_overlong needs --soft_cache_length, the tokens over which the reward falls to -1")
        if not 0 < soft_cache_length < longest:
            raise ValueError(
                f"soft_cache_length {soft_cache_length} must be in 1..{longest - 1}, below the most tokens"
            )
        self.longest, self.cache = longest, soft_cache_length

    def __call__(
        self, completions: list[str], completion_tokens: list[int] | None = None, **columns: list
    ) -> list[float]:
        lengths = self.lengths(completions, completion_tokens)
        return [soft_length_penalty(length, self.longest, self.cache) for length in lengths]


orms |= {
    "accuracy": AccuracyORM,
    "format": ThinkAnswerORM,
    "cosine": CosineORM,
    "repetition": RepetitionORM,
    "soft_overlong": SoftOverlongORM,
}

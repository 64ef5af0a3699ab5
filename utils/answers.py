"""The rule for reading and comparing answers. The accuracy reward and the evaluation both use it.

A text is reduced to a set of answers. They are read from its first ``<answer>...</answer>`` span, or from its first
sentence if it has no such span. That part is split at commas, and each answer is trimmed and lower-cased. A prediction
is right if it shares an answer with the reference. If the reference is empty ("list all ..." with nothing to list),
only an empty prediction is right.

The rule is the published one and it has a hole: the answer "yes, no" is always right on a yes/no question.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Set

_SHAPE = re.compile(
    r"\s*<think>(?:(?!</?(?:think|answer)>).)*</think>\s*<answer>(?:(?!</?(?:think|answer)>).)*</answer>\s*", re.DOTALL
)
_SENTENCE_END = re.compile("[.!?。．！？]")


def answer_span(text: str) -> str | None:
    """The inside of the first ``<answer>...</answer>``, trimmed; None if there is no complete span."""
    return _first_span(text, "answer")


def think_span(text: str) -> str | None:
    """The inside of the first ``<think>...</think>``, trimmed; None if there is no complete span."""
    return _first_span(text, "think")


def think_text(text: str) -> str:
    """The inside of the first ``<think>...</think>``, trimmed; the whole text if there is no complete span."""
    span = think_span(text)
    return text.strip() if span is None else span


# The part of a completion that is read as its reasoning, by its name in settings. The published code read the whole.
READINGS = {"think": think_text, "whole": str.strip}


def first_sentence(text: str) -> str:
    """The text before the first ``. ! ?`` or its full-width form, trimmed."""
    return _SENTENCE_END.split(text, maxsplit=1)[0].strip()


def parse_answers(text: str) -> frozenset[str]:
    """The set of answers that a completion or a solution gives, by the rule at the top of this module."""
    span = answer_span(text)
    return normalise_answers((first_sentence(text) if span is None else span).split(","))


def normalise_answers(answers: Iterable[str]) -> frozenset[str]:
    """Trim and lower-case each answer and drop the empty ones, e.g. for the ``answer`` list of an annotation."""
    return frozenset(answer.strip().lower() for answer in answers) - {""}


def answers_agree(predicted: Set[str], reference: Set[str]) -> bool:
    """True if the sets share an answer, or if both are empty."""
    return bool(predicted & reference) if reference else not predicted


def _first_span(text: str, tag: str) -> str | None:
    """The inside of the first ``<tag>...</tag>``, trimmed; None if there is no complete span.

    Two searches find it. A regular expression would take quadratic time on a text that opens the tag many times and
    never closes it.
    """
    opening, closing = f"<{tag}>", f"</{tag}>"
    start = text.find(opening)
    end = text.find(closing, start)
    return None if start < 0 or end < 0 else text[start + len(opening) : end].strip()


def has_think_answer_shape(text: str) -> bool:
    """True if the text is one ``<think>`` span, then one ``<answer>`` span, and nothing else but blanks."""
    return _SHAPE.fullmatch(text) is not None

"""The rule for reading and comparing answers. The accuracy reward and the evaluation both use it.

A text is reduced to a set of answers. They are read from its first ``<answer>...</answer>`` span, or from its first
sentence if it has no such span. That part is split where a list is split: at commas, semicolons, line breaks and "and",
full-width forms included. Each answer is lower-cased and freed from bullets, quotes, markup and a full stop at its end.
A prediction is right if it shares an answer with the reference. If the reference is empty ("list all ..." with nothing
to list), only an empty prediction is right. Where the reference is a letter of several options, "(A)", "Option A" and
"A. pleural effusion" are that letter.

The published rule split at commas alone. It has a hole that is kept: the answer "yes, no" is always right on a yes/no
question.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Set

_SHAPE = re.compile(
    r"\s*<think>(?:(?!</?(?:think|answer)>).)*</think>\s*<answer>(?:(?!</?(?:think|answer)>).)*</answer>\s*", re.DOTALL
)
# A point within a number does not end a sentence.
_SENTENCE_END = re.compile(r"(?<!\d)\.|\.(?!\d)|[!?。．！？]")
_SEPARATOR = re.compile(r"[,，、;；\n]|\s&\s|\sand(?=\s)", re.IGNORECASE)
_LEADING_AND = re.compile(r"^and(?:\s+|$)", re.IGNORECASE)
_ANSWER = re.compile(r"<answer>[^<]*</answer>")
_BULLET = re.compile(r"^(?:(?:[-*•·–]|\(?\d{1,2}[.)])\s+)+")
_AROUND = " \t\r\"'`*_“”‘’«»"
_WHOLE_NUMBER = re.compile(r"(-?\d+)\.0+")
# "a", "(a)", "a.", "option a", "the answer is a", each with or without the option's text after it
_LETTER = re.compile(
    r"(?:the )?(?:(?:correct |right |best )?(?:answer|option|choice)(?: is)?:? )?"
    r"(?:option |choice )?(?:\(([a-z])\)(?:[.:]|\s.*)?|([a-z])(?:[.):].*)?)"
)


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


def reasoning_of(text: str | None) -> str | None:
    """The reasoning of a reference: its ``<think>`` span, or the whole text if it says more than an ``<answer>`` span.
    None if there is no text, or an answer alone ("<answer>no</answer>")."""
    if text is None or (answer_span(text) is not None and not _ANSWER.sub("", text, count=1).strip()):
        return None
    return think_text(text)


# The part of a completion that is read as its reasoning, by its name in settings. The published code read the whole.
READINGS = {"think": think_text, "whole": str.strip}


def first_sentence(text: str) -> str:
    """The text before the first ``. ! ?`` or its full-width form, trimmed."""
    return _SENTENCE_END.split(text, maxsplit=1)[0].strip()


def parse_answers(text: str) -> frozenset[str]:
    """The set of answers that a completion or a solution gives, by the rule at the top of this module."""
    span = answer_span(text)
    return normalise_answers([first_sentence(text) if span is None else span])


def parse_every_answer(text: str) -> frozenset[str]:
    """The set of answers in all ``<answer>`` spans of a text; `parse_answers` if it has none."""
    spans = [part.partition("</answer>") for part in text.split("<answer>")[1:]]
    complete = [span for span, end, _ in spans if end]
    return normalise_answers(complete) if complete else parse_answers(text)


def normalise_answers(answers: Iterable[object]) -> frozenset[str]:
    """The single answers in ``answers``, e.g. in the ``answer`` list of an annotation, by the rule at the top."""
    parts = (part for answer in answers for part in _SEPARATOR.split(answer_text(answer)))
    return frozenset(map(_plain, parts)) - {""}


def answer_text(answer: object) -> str:
    """An answer as text. True is "yes" and False "no", a whole number has no decimals, and None is empty."""
    if isinstance(answer, bool):
        return "yes" if answer else "no"
    if isinstance(answer, float) and answer.is_integer():
        return str(int(answer))
    return "" if answer is None else str(answer)


def _plain(answer: str) -> str:
    answer = _BULLET.sub("", _LEADING_AND.sub("", answer.strip(), count=1), count=1)
    answer = " ".join(answer.strip(_AROUND).lower().rstrip(".。:!").strip(_AROUND).split())
    number = _WHOLE_NUMBER.fullmatch(answer)
    return number[1] if number else answer


def in_form_of(predicted: Set[str], reference: Set[str]) -> frozenset[str]:
    """``predicted`` in the form of ``reference``. If all answers of the reference are single letters, answers that
    choose an option ("(a)", "option a", "a. pleural effusion") become its letter. Otherwise the letter before an answer
    that the reference holds is left out ("a) pleural effusion")."""
    if is_letter_choice(reference):
        choices = {answer: _LETTER.fullmatch(answer) for answer in predicted}
        return frozenset((match[1] or match[2]) if match else answer for answer, match in choices.items())
    return frozenset(_without_letter(answer, reference) for answer in predicted)


def is_letter_choice(reference: Set[str]) -> bool:
    """True if every answer of the reference is one letter, and there is one."""
    return bool(reference) and all(len(answer) == 1 and answer.isalpha() for answer in reference)


def _without_letter(answer: str, reference: Set[str]) -> str:
    rest = re.sub(r"\(?[a-z][.):] *", "", answer, count=1) if re.match(r"\(?[a-z][.):]", answer) else answer
    return rest if answer not in reference and rest in reference else answer


def answers_agree(predicted: Set[str], reference: Set[str]) -> bool:
    """True if the sets share an answer (`in_form_of`), or if both are empty."""
    return bool(in_form_of(predicted, reference) & reference) if reference else not predicted


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

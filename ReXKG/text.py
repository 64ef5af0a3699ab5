"""Texts to sentences and sentences to words, in the way of the published models.

Both functions accept any string and take time proportional to its length.
"""

from __future__ import annotations

import re

# A dot between two digits belongs to the number.
_SENTENCE_END = re.compile(r"(?<!\d)\.|\.(?!\d)")
_MARKUP = re.compile(r"</?[A-Za-z][\w-]{0,30}>")
_DECIMAL = re.compile(r"\d\.\d")
_SPACED = {mark: f" {mark} " for mark in "/,:!?()"}


def split_sentences(text: str, minimum_words: int = 1) -> list[str]:
    """The sentences of ``text`` with at least ``minimum_words`` words, in order, without their final dots.

    A sentence ends at a dot that is not inside a number, and at a markup tag such as ``<think>``, which is dropped. A
    newline is a blank. The published code skipped sentences of one word: ``minimum_words=2``.
    """
    if "<" in text:
        text = _MARKUP.sub(".", text)
    sentences = _SENTENCE_END.split(text) if _DECIMAL.search(text) else text.split(".")
    if minimum_words > 1:
        return [s for s in sentences if len(tokenize(s)) >= minimum_words]
    return [s for s in sentences if s and not s.isspace()]


def tokenize(sentence: str) -> list[str]:
    """The lower-cased words of a sentence. Blanks are put around / , : . ! ? ( ) except dots inside numbers, and the
    sentence is cut at blanks."""
    if "." in sentence:
        sentence = _SENTENCE_END.sub(" . ", sentence)
    for mark, spaced in _SPACED.items():
        if mark in sentence:
            sentence = sentence.replace(mark, spaced)
    return sentence.lower().split()

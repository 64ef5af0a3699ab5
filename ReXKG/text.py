"""From a text to sentences and from a sentence to words, as the published models were fed.

Both functions take time proportional to the text's length and accept any string.
"""

from __future__ import annotations

import re

# A dot between two digits belongs to the number.
_SENTENCE_END = re.compile(r"(?<!\d)\.|\.(?!\d)")
_MARKUP = re.compile(r"</?[A-Za-z][\w-]{0,30}>")
_DECIMAL = re.compile(r"\d\.\d")
_SPACED = {mark: f" {mark} " for mark in "/,:!?()"}


def split_sentences(text: str, minimum_words: int = 1) -> list[str]:
    """The sentences of ``text``, without their final dots, in order; those of fewer words are left out.

    A sentence ends at a dot that is not inside a number, and at a markup tag such as ``<think>``, which is dropped. A
    newline is a blank. The published handling skipped sentences of one word: ``minimum_words=2``.
    """
    if "<" in text:
        text = _MARKUP.sub(".", text)
    sentences = _SENTENCE_END.split(text) if _DECIMAL.search(text) else text.split(".")
    if minimum_words > 1:
        return [s for s in sentences if len(tokenize(s)) >= minimum_words]
    return [s for s in sentences if s and not s.isspace()]


def tokenize(sentence: str) -> list[str]:
    """The lower-cased words of a sentence: blanks around / , : . ! ? ( ), dots inside numbers kept, cut at blanks."""
    if "." in sentence:
        sentence = _SENTENCE_END.sub(" . ", sentence)
    for mark, spaced in _SPACED.items():
        if mark in sentence:
            sentence = sentence.replace(mark, spaced)
    return sentence.lower().split()

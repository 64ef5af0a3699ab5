"""The words that findings are read from: `finding_words.tsv` and their places in a statement."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

WORDS_FILE = Path(__file__).parent / "finding_words.tsv"
_LONGEST_NAME = 3


class WordKind(StrEnum):
    """The kinds of rows; the head of the file describes each."""

    NAME = "name"
    SIDE = "side"
    ZONE = "zone"
    SEVERITY = "severity"
    COURSE = "course"
    ORGAN = "organ"
    NORMAL = "normal"
    ENLARGED = "enlarged"
    NOT = "not"
    BREAK = "break"
    CLAUSE = "clause"
    JOINS = "joins"
    EARLIER = "earlier"
    COMPARED = "compared"


class Tag(NamedTuple):
    """The kind and value of the words ``start`` to ``end`` (excluded) of a statement."""

    kind: str
    value: str
    start: int
    end: int


class FindingWords:
    """The rows of the file.

    Raises:
        ValueError: a row is not understood. The message names file and line.
    """

    def __init__(self, path: Path = WORDS_FILE) -> None:
        self._names: dict[tuple[str, ...], str] = {}
        self._phrases: dict[tuple[str, ...], list[tuple[str, str]]] = {}
        for kind, value, phrase in _read_rows(path):
            words = tuple(phrase.split())
            if kind == WordKind.NAME:
                self._names[words] = value
                self._names.setdefault(tuple(value.split()), value)
            else:
                self._phrases.setdefault(words, []).append((kind, value))
        self._lengths: dict[str, list[int]] = {}
        for words in sorted(self._phrases, key=len, reverse=True):
            lengths = self._lengths.setdefault(words[0], [])
            if len(words) not in lengths:
                lengths.append(len(words))

    def tag(self, words: Sequence[str]) -> list[Tag]:
        """The tags of a statement, in order. The longest phrase takes its words, and may have several kinds."""
        tags: list[Tag] = []
        start = 0
        while start < len(words):
            end = start + 1
            for length in self._lengths.get(words[start], ()):
                entries = self._phrases.get(tuple(words[start : start + length]))
                if entries:
                    end = start + length
                    tags += [Tag(kind, value, start, end) for kind, value in entries]
                    break
            start = end
        return tags

    def name(self, words: Sequence[str], start: int, end: int) -> str:
        """The name of the finding at ``words[start:end]``.

        It is that of the longest listed phrase that ends there, which may begin before ``start`` ("chest tube"). If
        there is none, the first listed word names a device ("PICC line"), else the last word in the singular.
        """
        for first in range(max(0, end - _LONGEST_NAME), end):
            if listed := self._names.get(tuple(words[first:end])):
                return listed
        for position in range(start, end):
            if listed := self._names.get((words[position],)):
                return listed
        return _singular(words[end - 1])


@lru_cache(maxsize=1)
def finding_words() -> FindingWords:
    """The words of the project's file, read once."""
    return FindingWords()


def _singular(word: str) -> str:
    if word.endswith("ies") and len(word) > 4:
        return f"{word[:-3]}y"
    is_plural = word.endswith("s") and not word.endswith(("ss", "is", "us")) and len(word) > 3
    return word[:-1] if is_plural else word


def _read_rows(path: Path) -> Iterator[tuple[str, str, str]]:
    """(kind, value, phrase) of every phrase."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        fields = line.split("\t")
        if len(fields) != 3 or fields[0] not in set(WordKind):
            raise ValueError(
                f"{path}, line {number}: {line!r:.60} is not kind<TAB>value<TAB>phrases; kinds: {', '.join(WordKind)}"
            )
        kind, value, phrases = fields
        yield from ((kind, value, phrase) for phrase in phrases.split(" | "))

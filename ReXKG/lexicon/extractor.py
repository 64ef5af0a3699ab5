"""The built-in extractor: a vocabulary, rules for negation and rules for relations. Needs no weights.

Entities are words, as annotators of radiology reports made them ("small", "pleural", "effusion" are three), so that
graphs of different wording overlap where their facts do. A sentence is read once: `LexiconExtractor.read` tags its
words, `polarity.py` says what is negated, `attachment.py` says what belongs to what.
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import islice
from pathlib import Path

from ReXKG.graph import SIZE, Graph, SentenceGraph, merge_sentences
from ReXKG.lexicon.attachment import attach
from ReXKG.lexicon.items import GAP, NUMBER, Item, entity
from ReXKG.lexicon.polarity import resolve_polarity
from ReXKG.lexicon.vocabulary import UNITS, Vocabulary
from ReXKG.text import split_sentences, tokenize

CACHED_SENTENCES = 50_000
LONGEST_CACHED = 1_000
_LONGEST_MEASURE = 12
_FARTHEST_NOUN = 8
_NUMBER = re.compile(r"\d+(?:\.\d+)?(?:-\d+(?:\.\d+)?)?")
_BETWEEN_NUMBERS = frozenset({"x", "×", "by", "to", "-", "–"})


class LexiconExtractor:
    """Graphs of texts by dictionary and rules. One instance may serve a whole process; its memory is bounded by
    `CACHED_SENTENCES` sentences of at most `LONGEST_CACHED` characters.

    ``extra_terms`` is a lexicon file of the user's (see lexicon.tsv); it overrides the project's own term by term.
    """

    def __init__(self, extra_terms: str | Path | None = None) -> None:
        self.vocabulary = Vocabulary(extra_terms)
        self.name = f"lexicon-{self.vocabulary.fingerprint}"
        self._read_cached = lru_cache(maxsize=CACHED_SENTENCES)(self._read)

    def __call__(self, texts: list[str]) -> list[Graph]:
        """One graph per text, in order; ``doc_key`` is the text's position."""
        return [
            merge_sentences(map(self.read, split_sentences(text)), doc_key=str(position))
            for position, text in enumerate(texts)
        ]

    def read(self, sentence: str) -> SentenceGraph:
        """The graph of one sentence."""
        return self._read_cached(sentence) if len(sentence) <= LONGEST_CACHED else self._read(sentence)

    def _read(self, sentence: str) -> SentenceGraph:
        words = tokenize(sentence)
        items = self.tag(words)
        labels = resolve_polarity(items)
        entities = {item.text: label for item, label in zip(items, labels, strict=True) if label}
        return SentenceGraph(" ".join(words), entities, attach(items))

    def tag(self, words: list[str]) -> list[Item]:
        """What the words say, one item a word or phrase; `GAP` stands for a word that says nothing."""
        known, guess = self.vocabulary.table.get, self.vocabulary.guess
        items: list[Item] = []
        i, n = 0, len(words)
        while i < n:
            word = words[i]
            item, phrases = known(word) or guess(word)
            i += 1
            if item is NUMBER:
                end = _end_of_measure(words, i - 1)
                items.append(entity(" ".join(words[i - 1 : end]), SIZE) if end else GAP)
                i = end or i
                continue
            if item.cue == "before" and not (i < n and (known(words[i]) or guess(words[i])).item.label):
                item = GAP
            elif item.role == "state":
                item = self.vocabulary.said_of.get((_last_noun(items), word), item)
            for rest, meaning in phrases:
                if words[i : i + len(rest)] == rest:
                    items += meaning
                    i += len(rest)
                    break
            else:
                items.append(item)
        return items


def _last_noun(items: list[Item]) -> str | None:
    """What the next word speaks of: the last noun, if it is not too far."""
    return next((item.text for item in islice(reversed(items), _FARTHEST_NOUN) if item.kind), None)


def _end_of_measure(words: list[str], i: int) -> int | None:
    """Where a measure that begins at word i ends ("3 cm", "2.5 x 3 cm", "3 cm x 4 cm"); None without a unit."""
    end = None
    wants_number = True
    for j in range(i, min(len(words), i + _LONGEST_MEASURE)):
        word = words[j]
        if wants_number:
            if not _NUMBER.fullmatch(word):
                break
            wants_number = False
        elif word in UNITS:
            end = j + 1
        elif word in _BETWEEN_NUMBERS:
            wants_number = True
        else:
            break
    return end

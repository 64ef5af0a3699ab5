"""The rules of polarity for the mentions of another extractor.

A model that learned from reports reads "Is there an effusion? No." as an effusion. Here the rules decide instead what
its disorders and devices assert. Its entities, their extent and its relations stay as they are.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path

from ReXKG.graph import DENIED_TYPES, DEVICES_ABSENT, DEVICES_PRESENT, DISORDER_ABSENT, DISORDER_PRESENT
from ReXKG.lexicon.extractor import LexiconExtractor
from ReXKG.lexicon.items import make_item
from ReXKG.lexicon.polarity.reading import ABSENT
from ReXKG.lexicon.polarity.rules import resolve_polarity
from ReXKG.lexicon.wording import read_words, word_origins

_PRESENT = {
    DISORDER_PRESENT: DISORDER_PRESENT,
    DISORDER_ABSENT: DISORDER_PRESENT,
    DEVICES_PRESENT: DEVICES_PRESENT,
    DEVICES_ABSENT: DEVICES_PRESENT,
}


class MentionPolarity:
    """Labels of mentions by the rules of polarity.

    Attributes:
        name: "rules-" and a fingerprint of the vocabulary, for the records of a run.

    Args:
        extra_terms: a lexicon file of the user's (see lexicon.tsv).

    Raises:
        ValueError: a row of a lexicon file is not understood; the message names file and line.
    """

    def __init__(self, extra_terms: str | Path | None = None) -> None:
        self._lexicon = LexiconExtractor(extra_terms)
        self.name = f"rules-{self._lexicon.vocabulary.fingerprint}"

    def decide(self, sentence: str, mentions: Sequence[tuple[int, int, str]]) -> list[str | None]:
        """The label of each mention. A disorder or device is present or absent as the sentence says, or None if it
        neither asserts nor denies it. Other mentions keep their labels.

        Args:
            sentence: the raw text, with its lines and punctuation.
            mentions: (first word, last word, label), counted in the plain words of the sentence (`tokenize`).
        """
        if not any(label in _PRESENT for _, _, label in mentions):
            return [label for _, _, label in mentions]
        plain, words = read_words(sentence)
        steps: list[tuple[int, int]] = []
        items = self._lexicon.tag(words, steps)
        origins = word_origins(sentence, plain)
        after = [first for _, first in steps[1:]] + [len(items)]
        # Marks have the origin of the word before them, so only words may stand for a mention.
        spoken = [
            (origins[word], end - 1) for (word, _), end in zip(steps, after, strict=True) if _is_spoken(words[word])
        ]
        starts = [origin for origin, _ in spoken]
        heads: list[int | None] = []
        for _, last_word, label in mentions:
            head = None
            if label in _PRESENT:
                found = max(bisect_right(starts, last_word) - 1, 0)
                head = spoken[found][1] if spoken else 0
                items[head] = make_item(items[head].text or "mention", _PRESENT[label], cue=items[head].cue)
            heads.append(head)
        labels = resolve_polarity(items)
        return [
            label if head is None else _same_kind(label, labels[head])
            for (_, _, label), head in zip(mentions, heads, strict=True)
        ]


def _is_spoken(word: str) -> bool:
    return any(map(str.isalnum, word))


def _same_kind(label: str, decided: str | None) -> str | None:
    """The label of the mention's own kind that says what ``decided`` says: overlapping mentions share an item."""
    if decided is None:
        return None
    present = _PRESENT[label]
    return ABSENT[present] if decided in DENIED_TYPES else present

"""The built-in extractor: a vocabulary, rules for negation and rules for relations. Needs no weights.

Entities are words, as annotators of radiology reports made them ("small", "pleural", "effusion" are three), so that
graphs of different wording overlap to the extent that their facts do. A sentence is read once: `LexiconExtractor.tag`
tags its words, `polarity/` decides what is denied, `attachment.py` relates what belongs together.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from ReXKG.graph import SIZE, Graph, SentenceGraph
from ReXKG.lexicon import cues, roles
from ReXKG.lexicon.attachment import attach
from ReXKG.lexicon.items import GAP, NUMBER, Item, make_item
from ReXKG.lexicon.polarity.rules import read_polarity
from ReXKG.lexicon.vocabulary import Vocabulary
from ReXKG.lexicon.word_forms import end_of_measure
from ReXKG.lexicon.wording import read_words, split_statements
from ReXKG.sentence_cache import SentenceCache

_FARTHEST_NOUN = 8


class LexiconExtractor:
    """Graphs of texts by dictionary and rules. One instance may serve a whole process: its memory is that of a
    `SentenceCache`.

    Attributes:
        name: "lexicon-" and a fingerprint of the vocabulary, for the records of a run.
        leaves_out_questions: True, since no graph holds what is only asked.

    Args:
        extra_terms: a lexicon file of the user's (see lexicon.tsv); it overrides the project's own term by term.

    Raises:
        ValueError: a row of a lexicon file is not understood; the message names file and line.
    """

    leaves_out_questions = True

    def __init__(self, extra_terms: str | Path | None = None) -> None:
        self.vocabulary = Vocabulary(extra_terms)
        self.name = f"lexicon-{self.vocabulary.fingerprint}"
        self.cache = SentenceCache()

    def __call__(self, texts: list[str]) -> list[Graph]:
        """One graph per text, in order; ``doc_key`` is the text's position."""
        return self.cache.read_texts(list(map(split_statements, texts)), self.read_afresh)

    def read_afresh(self, sentences: Sequence[str]) -> list[SentenceGraph]:
        """The graphs of sentences. Neither uses nor fills the cache."""
        return list(map(self._read, sentences))

    def _read(self, sentence: str) -> SentenceGraph:
        plain, words = read_words(sentence)
        items = self.tag(words)
        reading = read_polarity(items)
        entities = {item.text: label for item, label in zip(items, reading.labels, strict=True) if label}
        relations = attach(items)
        if reading.left_out:
            relations = tuple(triple for triple in relations if triple[0] in entities and triple[1] in entities)
        return SentenceGraph(" ".join(plain), entities, relations)

    def tag(self, words: list[str], steps: list[tuple[int, int]] | None = None) -> list[Item]:
        """One item per word or phrase; `GAP` stands for a word that says nothing. If ``steps`` is given, the position
        of each word or phrase in ``words`` and of its first item are added to it.

        Each word is read by these rules, in this order. A number takes its unit. A word of the cue "before" counts only
        before an entity. A state has the type that the vocabulary gives it after the last noun. The longest phrase that
        begins with the word replaces it.
        """
        known, guess = self.vocabulary.table.get, self.vocabulary.guess
        items: list[Item] = []
        i, count = 0, len(words)
        while i < count:
            word = words[i]
            if steps is not None:
                steps.append((i, len(items)))
            item, phrases = known(word) or guess(word)
            i += 1
            if item is NUMBER:
                end = end_of_measure(words, i - 1)
                items.append(make_item(" ".join(words[i - 1 : end]), SIZE, cue=cues.OPENS) if end else GAP)
                i = end or i
                continue
            if item.cue == cues.BEFORE and not (i < count and (known(words[i]) or guess(words[i])).item.label):
                item = GAP
            elif item.role == roles.STATE:
                item = self.vocabulary.said_of.get((_last_noun(items), word), item)
            for following, meaning in phrases.get(words[i], ()) if phrases and i < count else ():
                if words[i : i + len(following)] == following:
                    items += meaning
                    i += len(following)
                    break
            else:
                items.append(item)
        return items


def _last_noun(items: Sequence[Item]) -> str | None:
    """The last noun, of which the next word is said, unless it is too far away."""
    return next((item.text for item in islice(reversed(items), _FARTHEST_NOUN) if item.kind), None)

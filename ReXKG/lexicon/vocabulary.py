"""The vocabulary of the lexicon extractor.

`lexicon.tsv` lists entities (term, type, role). `cues.tsv` lists the words that steer reading (phrase, cue). Four forms
of term:
- "effusion", "endotracheal tube": one entity.
- "degenerative+changes": two entities that take their types from each other. These are concept and disorder, while
  "changes" alone is a concept.
- "heart ... enlarged": a state that takes its type from what it is said of. This is a disorder, while "enlarged" alone
  is a concept.
Words in neither file are understood by their form (`word_forms.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ReXKG.lexicon.cues import BREAKS
from ReXKG.lexicon.items import GAP, Entry, Item, make_item
from ReXKG.lexicon.lexicon_files import (
    CONTRACTIONS_FILE,
    CUES_FILE,
    LEXICON_FILE,
    SAID_OF,
    fingerprint,
    read_cues,
    read_terms,
)
from ReXKG.lexicon.word_forms import WordForms
from ReXKG.lexicon.wording import write_out
from ReXKG.text import tokenize


class Vocabulary:
    """Words and phrases with their entries.

    Attributes:
        table: word to entry.
        guess: the entry of a word that is not in the table, `NOTHING` if no rule understands it.
        said_of: (noun, state) to the entity that the state is if it is said of that noun.
        fingerprint: eight hexadecimal digits of the files.

    Args:
        extra: a lexicon file of the user's, read after the project's own and overriding it term by term.

    Raises:
        ValueError: a row is not understood; the message names file and line.
    """

    def __init__(self, extra: str | Path | None = None) -> None:
        term_files = [LEXICON_FILE, *([Path(extra)] if extra else [])]
        terms: dict[str, tuple[Item, ...]] = {}
        for path in term_files:
            terms |= read_terms(path)
        self.fingerprint = fingerprint([*term_files, CUES_FILE, CONTRACTIONS_FILE])
        self.said_of = {tuple(term.split(SAID_OF)): items[0] for term, items in terms.items() if SAID_OF in term}
        listed = {term: items for term, items in terms.items() if SAID_OF not in term}
        self.table = _build_table(listed, read_cues(CUES_FILE))
        self.guess = WordForms(self.table).guess


def _build_table(terms: Mapping[str, tuple[Item, ...]], cue_phrases: Mapping[str, str]) -> dict[str, Entry]:
    """Word to entry."""
    single, phrases = _split_by_length(terms)
    # Single words first, so that a phrase can say which of its words are entities too.
    for phrase, cue in cue_phrases.items():
        words = write_out(tokenize(phrase))
        if len(words) == 1:
            single[words[0]] = single.get(words[0], make_item(words[0], None))._replace(cue=cue)
    for phrase, cue in cue_phrases.items():
        words = tuple(write_out(tokenize(phrase)))
        if len(words) > 1:
            plain = [single[word]._replace(cue=None) for word in words if word in single and single[word].label]
            entities, steering = phrases.get(words, plain), make_item(phrase, None, cue=cue)
            # A phrase that begins a clause belongs to that clause, with its entities.
            phrases[words] = (steering, *entities) if cue == BREAKS else (*entities, steering)
    by_first_words: dict[str, dict[str, list[tuple[list[str], tuple[Item, ...]]]]] = {}
    for (first, *following), items in sorted(phrases.items(), key=lambda phrase: -len(phrase[0])):
        by_first_words.setdefault(first, {}).setdefault(following[0], []).append((following, items))
    return {
        word: Entry(
            item if (item := single.get(word)) and (item.label or item.cue) else GAP, by_first_words.get(word, {})
        )
        for word in {*single, *by_first_words}
    }


def _split_by_length(
    terms: Mapping[str, tuple[Item, ...]],
) -> tuple[dict[str, Item], dict[tuple[str, ...], tuple[Item, ...]]]:
    """Terms of one word by that word, and terms of several by their words."""
    single: dict[str, Item] = {}
    phrases: dict[tuple[str, ...], tuple[Item, ...]] = {}
    for items in terms.values():
        words = tuple(word for item in items for word in write_out(tokenize(item.text)))
        if len(words) == 1:
            single[words[0]] = items[0]
        else:
            phrases[words] = items
    return single, phrases

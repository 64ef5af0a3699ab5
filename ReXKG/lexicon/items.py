"""Items: the words of a sentence after tagging and before the rules for negation and relations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from ReXKG.graph import CONCEPT
from ReXKG.lexicon import roles

# Concepts that can be modified themselves have a kind of their own; a concept without one is a modifier.
NOUN_CONCEPT, EVENT_CONCEPT, OUTLINE_CONCEPT = "noun concept", "event concept", "outline concept"
CONCEPT_KINDS = {
    roles.NOUN: NOUN_CONCEPT,
    roles.FINDING: NOUN_CONCEPT,
    roles.EVENT: EVENT_CONCEPT,
    roles.OUTLINE: OUTLINE_CONCEPT,
}


class Item(NamedTuple):
    """An entity, a cue, or an entity that is also a cue.

    Attributes:
        text: the word or phrase.
        label: an entity type of `ReXKG.graph`, disorders and devices as present; None if it is not an entity.
        kind: the kind of noun: for a concept that can be modified one of `CONCEPT_KINDS`, for another entity its label.
            None if it is not a noun: a concept that modifies others, or not an entity.
        role: one of `roles.ROLES`, or `roles.NO_ROLE`.
        cue: one of `cues.CUES`, or None.
    """

    text: str
    label: str | None
    kind: str | None
    role: str
    cue: str | None


def make_item(text: str, label: str | None, role: str = roles.NO_ROLE, cue: str | None = None) -> Item:
    """An item with the kind that its label and role give it."""
    return Item(text, label, CONCEPT_KINDS.get(role) if label == CONCEPT else label, role, cue)


class Entry(NamedTuple):
    """A word in the vocabulary.

    Attributes:
        item: the word alone; `GAP` if it says nothing.
        phrases: second word to the phrases that begin with both words, the longest first, each as (words that must
            follow the first, items of the phrase).
    """

    item: Item
    phrases: Mapping[str, Sequence[tuple[list[str], tuple[Item, ...]]]] = MappingProxyType({})


# Both are compared by identity.
GAP = make_item("", None)  # a word that says nothing
NUMBER = make_item("number", None)  # becomes a size if a unit follows, else a GAP
NOTHING = Entry(GAP)

"""What the words of a sentence say, between tagging and the rules for negation and relations."""

from __future__ import annotations

from typing import NamedTuple

from ReXKG.graph import CONCEPT

# Concepts that can be modified themselves have a kind of their own; a concept without one is a modifier.
NOUN, EVENT, OUTLINE = "noun concept", "event concept", "outline concept"
CONCEPT_KINDS = {"noun": NOUN, "finding": NOUN, "event": EVENT, "outline": OUTLINE}


class Item(NamedTuple):
    """An entity (its text, its label, its kind as a noun or None for a modifier, its role), a cue, or an entity that is
    also a cue."""

    text: str
    label: str | None
    kind: str | None
    role: str
    cue: str | None


def entity(text: str, label: str | None, role: str = "", cue: str | None = None) -> Item:
    """An item with the kind that its label and role give it."""
    return Item(text, label, CONCEPT_KINDS.get(role) if label == CONCEPT else label, role, cue)


GAP = Item("", None, None, "", "gap")
NUMBER = Item("", None, None, "", "number")

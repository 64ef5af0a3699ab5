"""Entities and relations at their places in a sentence: what the neural models are trained on and predict."""

from __future__ import annotations

from typing import NamedTuple


class Mention(NamedTuple):
    """An entity: words ``start`` to ``end`` of the sentence, both included, counted from 0, and its type."""

    start: int
    end: int
    label: str


class Relation(NamedTuple):
    """A typed, directed relation between two mentions of one sentence (PURE: subject and object)."""

    source: Mention
    target: Mention
    label: str

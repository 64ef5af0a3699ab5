"""Entities and relations at their places in a sentence. The neural models are trained on them and predict them."""

from __future__ import annotations

from typing import NamedTuple


class Mention(NamedTuple):
    """An entity: words ``start`` to ``end`` of the sentence, counted from 0, both included, and its type."""

    start: int
    end: int
    label: str


class Relation(NamedTuple):
    """A typed, directed relation between two mentions of one sentence (PURE: subject and object)."""

    source: Mention
    target: Mention
    label: str

"""Attachment: the relations between the entities of a sentence.

The items are read from left to right. An entity joins the chunk being read or begins the next one. A cue may close the
chunk and says how the next is linked to it (`ATTACHMENT_RULES`). A closed chunk is related inside itself by the two
rules of `chunks.py`, and its head, the last noun, to the noun before it by one of these:

- predicate: modifiers with no noun after them modify the noun before the verb ("the lungs are *clear*"). A disorder
  that is a state is located there ("the lungs are *hyperinflated*").
- place: a chunk after "in", "at", "of" or "with" relates to the noun before it by their kinds (`_LINKED`), and so do
  further places after "and".
- suggestion: after "suggestive of", "likely", "due to" and the like, the finding before suggests the disorders. The
  finding in "hyperinflated lungs" is the state, not the lungs.

A verb keeps the noun before it, a new clause forgets it. Every entity is attached to at most a few others, so the time
is linear in the sentence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ReXKG.graph import (
    ANATOMY,
    DEVICES_PRESENT,
    DISORDER_PRESENT,
    LOCATED_AT,
    MODIFY,
    PROCEDURES,
    SIZE,
    SUGGESTIVE_OF,
)
from ReXKG.lexicon import cues, roles
from ReXKG.lexicon.chunks import LINKS, TO_EARLIER, TO_LATER, Triple, relate_within
from ReXKG.lexicon.items import EVENT_CONCEPT, GAP, NOUN_CONCEPT, OUTLINE_CONCEPT, Item

# How an entity follows the one before it: side by side, across a comma or "and", or across other words.
ADJACENT, LISTED, APART = 0, 1, 2

# (kind of the noun before a link, kind of the head after it) to the relation and its direction.
_LINKED = {
    (DISORDER_PRESENT, ANATOMY): (LOCATED_AT, TO_LATER),
    (DISORDER_PRESENT, OUTLINE_CONCEPT): (LOCATED_AT, TO_LATER),
    (DISORDER_PRESENT, SIZE): (MODIFY, TO_EARLIER),
    (DEVICES_PRESENT, ANATOMY): (LOCATED_AT, TO_LATER),
    (DEVICES_PRESENT, NOUN_CONCEPT): (LOCATED_AT, TO_EARLIER),
    (PROCEDURES, ANATOMY): (LOCATED_AT, TO_LATER),
    (PROCEDURES, DEVICES_PRESENT): (LOCATED_AT, TO_LATER),
    (ANATOMY, ANATOMY): (LOCATED_AT, TO_LATER),
    (ANATOMY, DEVICES_PRESENT): (LOCATED_AT, TO_LATER),
    (ANATOMY, DISORDER_PRESENT): (LOCATED_AT, TO_EARLIER),
    (ANATOMY, PROCEDURES): (LOCATED_AT, TO_LATER),
    (ANATOMY, SIZE): (MODIFY, TO_EARLIER),
    (OUTLINE_CONCEPT, SIZE): (LOCATED_AT, TO_EARLIER),
    (NOUN_CONCEPT, ANATOMY): (LOCATED_AT, TO_LATER),
    (NOUN_CONCEPT, DEVICES_PRESENT): (LOCATED_AT, TO_LATER),
    (NOUN_CONCEPT, DISORDER_PRESENT): (MODIFY, TO_LATER),
    (EVENT_CONCEPT, ANATOMY): (MODIFY, TO_LATER),
    (EVENT_CONCEPT, DISORDER_PRESENT): (MODIFY, TO_LATER),
    (EVENT_CONCEPT, DEVICES_PRESENT): (MODIFY, TO_LATER),
    (EVENT_CONCEPT, NOUN_CONCEPT): (MODIFY, TO_LATER),
    (EVENT_CONCEPT, OUTLINE_CONCEPT): (MODIFY, TO_LATER),
    (EVENT_CONCEPT, SIZE): (MODIFY, TO_LATER),
    (SIZE, ANATOMY): (MODIFY, TO_LATER),
    (SIZE, DISORDER_PRESENT): (MODIFY, TO_LATER),
    (SIZE, DEVICES_PRESENT): (MODIFY, TO_LATER),
}
_PREDICATES = frozenset({NOUN_CONCEPT, PROCEDURES})
_PLACES = frozenset({ANATOMY, SIZE})


def attach(items: Sequence[Item]) -> tuple[Triple, ...]:
    """The relations of a sentence's items as (source, target, type), without repeats, in order of discovery."""
    reading, rules = _Reading(), ATTACHMENT_RULES
    gap = APART
    for item in items:
        if item is GAP:
            gap = APART
            continue
        _, label, _, _, cue = item
        if label is not None:
            reading.read_entity(item, gap)
            gap = ADJACENT
        elif cue != cues.LIST:
            gap = APART
        elif gap == ADJACENT:
            gap = LISTED
        if cue is not None and (rule := rules.get(cue)):
            rule(reading, cue, label is not None)
    reading.close_chunk()
    return tuple(reading.relations)


class _Reading:
    """The state of a sentence that is read from left to right."""

    __slots__ = (
        "chunk", "finding", "is_bare", "is_open", "link", "noun", "place_kind", "placed", "relations", "tentative",
        "thing",
    )  # fmt: skip

    def __init__(self) -> None:
        self.relations: dict[Triple, None] = {}
        self.chunk: list[Item] = []
        self.is_bare = True  # the chunk holds modifiers only so far
        self.is_open = False  # the next entity joins the chunk across any words: "above the carina"
        self.link: str | None = None  # the cue between the last noun and the chunk
        self.noun: Item | None = None  # what the chunk may belong to
        self.placed: Item | None = None  # the noun whose place was told last
        self.place_kind: str | None = None  # the kind of that place
        # A relation to a further place. A verb shows that it was the next subject: "and the heart is".
        self.tentative: Triple | None = None
        self.thing: Item | None = None  # the last noun that is not a place
        self.finding: Item | None = None  # what a suggestion explains

    def read_entity(self, item: Item, gap: int) -> None:
        """Add an entity to the chunk, or begin a new chunk with it. ``gap`` is how it follows the last entity."""
        _, _, kind, _, cue = item
        if cue in LINKS:
            joins = self.is_bare
        else:
            joins = gap == ADJACENT or self.is_open or (gap == LISTED and self._is_unfinished())
        if not joins:
            self.close_chunk()
        self.chunk.append(item)
        self.is_open = False
        if kind is not None and kind != SIZE:
            self.is_bare = False

    def _is_unfinished(self) -> bool:
        """True if the chunk holds modifiers that still wait for their noun and are not said of the noun before a
        verb."""
        return self.is_bare and not (self.noun and self.link == cues.VERB)

    def read_list_mark(self, cue: str, is_entity: bool) -> None:
        """A comma, "and" or "or" leads to a further place of the same noun, unless the chunk still waits for its
        noun."""
        if not (self.chunk and self._is_unfinished()):
            self.close_chunk()
            self.noun = self.placed or self.noun
            if self.link != cues.VERB:
                self.link = cue

    def read_link(self, cue: str, is_entity: bool) -> None:
        """A preposition links the next chunk to the noun before it. One that is an entity itself ("above") and the "of"
        after bare modifiers ("both of the lungs") stay in the chunk with what follows."""
        if is_entity or (cue == cues.OF and self.chunk and self.is_bare and not self.noun):
            self.is_open = True
        else:
            self.close_chunk()
        self.link = cue

    def read_verb(self, cue: str, is_entity: bool) -> None:
        """The words after a verb are said of the noun before it."""
        self._end_subject(cues.VERB)
        self.finding = None

    def read_seen(self, cue: str, is_entity: bool) -> None:
        """A word of seeing is a verb, unless it is an entity that describes its noun ("the *visualized* lungs")."""
        if not is_entity:
            self.read_verb(cue, is_entity)

    def read_suggestion(self, cue: str, is_entity: bool) -> None:
        """The finding before suggests the disorders that follow. If the noun before is a place, the finding is the last
        noun that is not."""
        self._end_subject(cue)
        is_place = self.noun is not None and self.noun.kind == ANATOMY
        self.finding = (is_place and self.thing) or self.noun

    def _end_subject(self, cue: str) -> None:
        """Close the chunk at a word that says something of the noun before it."""
        self.close_chunk()
        if self.tentative:
            del self.relations[self.tentative]
            self.placed = self.tentative = None
        self.noun = self.placed or self.noun
        self.link = cue

    def forget(self, cue: str, is_entity: bool) -> None:
        """A new clause, statement or negation says nothing about the nouns before it."""
        if not is_entity:
            self.close_chunk()
            self.noun = self.placed = self.tentative = self.thing = self.finding = self.link = None

    def close_chunk(self) -> None:
        """Relate the chunk's entities to each other and its head to the noun before it."""
        chunk = self.chunk
        if not chunk:
            return
        self.chunk, self.is_bare, self.is_open = [], True, False
        loose, nouns = relate_within(chunk, self.relations)
        if not nouns:
            self._describe(self.noun, loose)
        elif self.noun and self.link == cues.VERB and all(noun.kind in _PREDICATES for noun in nouns):
            self._describe(self.noun, [nouns[-1], *loose])
        elif self.noun and self.link == cues.VERB and nouns[-1].role == roles.STATE:
            self._add(nouns[-1], self.noun, LOCATED_AT)
            self._describe(nouns[-1], loose)
        else:
            self._attach_head(nouns, loose)
        if self.link != cues.VERB:
            self.link = None

    def _attach_head(self, nouns: list[Item], loose: list[Item]) -> None:
        """Relate the head of a chunk to what came before it, and remember the head for what comes after it."""
        head = nouns[-2] if len(nouns) > 1 and _is_measure(nouns[-1]) else nouns[-1]
        if self.finding and head.kind == DISORDER_PRESENT:
            self._add(self.finding, head, SUGGESTIVE_OF)
        self._place(head)
        if loose:
            self._describe(head if self.link == cues.WITH else self.placed or head, loose)
        if head.kind != SIZE or self.noun is None or self.noun.kind == EVENT_CONCEPT:
            self.noun = head
        for noun in nouns:
            if noun.kind not in _PLACES:
                self.thing = noun

    def _place(self, head: Item) -> None:
        """Relate a head to the noun before it, across the cue between them."""
        noun, link = self.noun, self.link
        is_listed = link == cues.LIST and head.kind == self.place_kind
        linked = None
        if noun and (link in LINKS or is_listed or head.kind == SIZE):
            linked = _LINKED.get((noun.kind, head.kind))
        if linked is None or (link == cues.WITH and (noun.kind != DEVICES_PRESENT or head.kind != ANATOMY)):
            self.placed = self.place_kind = self.tentative = None
            return
        relation, direction = linked
        source, target = (head, noun) if direction is TO_EARLIER else (noun, head)
        triple = self._add(source, target, relation)
        self.placed, self.place_kind = noun, head.kind
        self.tentative = triple if is_listed else None

    def _describe(self, noun: Item | None, modifiers: list[Item]) -> None:
        for modifier in modifiers if noun else ():
            self._add(modifier, noun, MODIFY)

    def _add(self, source: Item, target: Item, relation: str) -> Triple | None:
        """Add a relation; return it if it is new."""
        triple = (source.text, target.text, relation)
        if source.text == target.text or triple in self.relations:
            return None
        self.relations[triple] = None
        return triple


def _is_measure(item: Item) -> bool:
    """A number with a unit, and not the word "size" itself."""
    return item.kind == SIZE and item.role != roles.NOUN


ATTACHMENT_RULES: dict[str, Callable[[_Reading, str, bool], None]] = {
    cues.LIST: _Reading.read_list_mark,
    cues.AT: _Reading.read_link,
    cues.OF: _Reading.read_link,
    cues.WITH: _Reading.read_link,
    cues.VERB: _Reading.read_verb,
    cues.PERSISTS: _Reading.read_verb,
    cues.SEEN: _Reading.read_seen,
    cues.SUGGESTS: _Reading.read_suggestion,
    cues.BREAKS: _Reading.forget,
    cues.SHOWS: _Reading.forget,
    cues.ENDS: _Reading.forget,
    cues.ASKS: _Reading.forget,
    cues.NEGATES: _Reading.forget,
    cues.LACKS: _Reading.forget,
}

"""What belongs to what: relations between the entities of a sentence.

A *run* is a noun phrase: entities side by side ("small left pleural effusion"), or modifiers joined by commas and
"and" ("small, loculated"). Its last noun is its head. Rules:
- modifier: in a run, a side or place word modifies the next anatomy ("left" pleural), a degree the next word
  ("mildly" enlarged), any other concept the next noun that is not anatomy ("small" effusion); without one, whichever
  of the two follows.
- neighbour: in a run, a noun relates to the next noun by their types (`_NEIGHBOURS`: effusion located_at pleural).
- predicate: a run of modifiers alone modifies the noun before it ("the heart is *enlarged*").
- place: a run after "in", "at", "of", "with" relates to the noun before it by their types (`_LINKED`), and so do
  further places after "and".
- suggestion: after "suggestive of", "likely", "due to" ..., disorders are what the finding before it suggests.
A verb keeps the noun before it, a new clause forgets it. Every entity is attached to at most a few others, so the time
is linear in the sentence.
"""

from __future__ import annotations

from collections.abc import Sequence

from ReXKG.graph import (
    ANATOMY,
    CONCEPT,
    DEVICES_PRESENT,
    DISORDER_PRESENT,
    LOCATED_AT,
    MODIFY,
    PROCEDURES,
    SIZE,
    SUGGESTIVE_OF,
)

Triple = tuple[str, str, str]
# How an entity follows the one before it: side by side, across a comma or "and", or across other words.
ADJACENT, LISTED, APART = 0, 1, 2

NOUN, EVENT, OUTLINE = "noun concept", "event concept", "outline concept"
_CONCEPT_KINDS = {"noun": NOUN, "event": EVENT, "outline": OUTLINE}

# (earlier kind, later kind) -> (relation, whether it runs from the later to the earlier).
_NEIGHBOURS = {
    (ANATOMY, ANATOMY): (LOCATED_AT, False),
    (ANATOMY, DISORDER_PRESENT): (LOCATED_AT, True),
    (ANATOMY, DEVICES_PRESENT): (LOCATED_AT, True),
    (ANATOMY, PROCEDURES): (LOCATED_AT, True),
    (ANATOMY, NOUN): (LOCATED_AT, True),
    (ANATOMY, EVENT): (MODIFY, True),
    (ANATOMY, OUTLINE): (LOCATED_AT, False),
    (ANATOMY, SIZE): (MODIFY, True),
    (DISORDER_PRESENT, ANATOMY): (LOCATED_AT, False),
    (DISORDER_PRESENT, NOUN): (MODIFY, False),
    (DISORDER_PRESENT, EVENT): (MODIFY, True),
    (DISORDER_PRESENT, SIZE): (MODIFY, True),
    (DEVICES_PRESENT, DEVICES_PRESENT): (MODIFY, False),
    (DEVICES_PRESENT, ANATOMY): (LOCATED_AT, False),
    (DEVICES_PRESENT, PROCEDURES): (LOCATED_AT, True),
    (DEVICES_PRESENT, NOUN): (LOCATED_AT, True),
    (PROCEDURES, DEVICES_PRESENT): (LOCATED_AT, False),
    (PROCEDURES, PROCEDURES): (MODIFY, False),
    (PROCEDURES, ANATOMY): (LOCATED_AT, False),
    (SIZE, DISORDER_PRESENT): (MODIFY, False),
    (SIZE, DEVICES_PRESENT): (MODIFY, False),
    (SIZE, ANATOMY): (MODIFY, False),
    (SIZE, NOUN): (MODIFY, False),
    (OUTLINE, SIZE): (LOCATED_AT, True),
}
_LINKED = {
    (DISORDER_PRESENT, ANATOMY): (LOCATED_AT, False),
    (DEVICES_PRESENT, ANATOMY): (LOCATED_AT, False),
    (PROCEDURES, ANATOMY): (LOCATED_AT, False),
    (PROCEDURES, DEVICES_PRESENT): (LOCATED_AT, False),
    (ANATOMY, ANATOMY): (LOCATED_AT, False),
    (ANATOMY, DEVICES_PRESENT): (LOCATED_AT, False),
    (ANATOMY, DISORDER_PRESENT): (LOCATED_AT, True),
    (ANATOMY, SIZE): (MODIFY, True),
    (DISORDER_PRESENT, SIZE): (MODIFY, True),
    (OUTLINE, SIZE): (LOCATED_AT, True),
    (NOUN, ANATOMY): (LOCATED_AT, False),
    (NOUN, DEVICES_PRESENT): (LOCATED_AT, False),
    (NOUN, DISORDER_PRESENT): (MODIFY, False),
    (EVENT, ANATOMY): (MODIFY, False),
    (EVENT, DISORDER_PRESENT): (MODIFY, False),
    (EVENT, DEVICES_PRESENT): (MODIFY, False),
    (EVENT, NOUN): (MODIFY, False),
    (EVENT, OUTLINE): (MODIFY, False),
    (EVENT, SIZE): (MODIFY, False),
    (SIZE, ANATOMY): (MODIFY, False),
    (SIZE, DISORDER_PRESENT): (MODIFY, False),
    (SIZE, DEVICES_PRESENT): (MODIFY, False),
}
_LINKS = frozenset({"at", "of", "with"})


def attach(items: Sequence[tuple]) -> tuple[Triple, ...]:
    """The relations of a sentence's items (text, label, role, cue, gap), without repeats, in order of discovery."""
    reader = _Reader()
    for item in items:
        if item[1] is not None:
            reader.read_entity(item)
        if item[3] is not None:
            reader.read_cue(item[3], item[1] is not None)
    reader.close_run()
    return tuple(reader.relations)


class _Reader:
    """What is remembered of a sentence while it is read from left to right."""

    def __init__(self) -> None:
        self.relations: dict[Triple, None] = {}
        self.run: list[tuple] = []
        self.run_open = False  # the next entity joins the run whatever lies between ("above the carina")
        self.run_is_bare = True  # only modifiers so far
        self.noun: tuple[str, str] | None = None  # text and kind of the last head
        self.located: tuple[str, str] | None = None  # the noun whose place was told last
        self.finding: str | None = None
        self.link: str | None = None

    def read_entity(self, item: tuple) -> None:
        gap = item[4]
        joins = gap == ADJACENT or self.run_open
        if gap == LISTED and self.run_is_bare and not (self.noun and self.link == "verb"):
            joins = True
        if self.run and not joins:
            self.close_run()
        self.run.append(item)
        self.run_open = False
        if _kind(item) is not None:
            self.run_is_bare = False

    def read_cue(self, cue: str, is_entity: bool) -> None:
        if cue == "list":
            if self.run and self.run_is_bare and not (self.noun and self.link == "verb"):
                return
            self.close_run()
            self.noun = self.located or self.noun
            self.link = "list" if self.link not in ("verb",) else self.link
        elif cue in _LINKS:
            if is_entity:
                self.run_open = True
            else:
                self.close_run()
            self.link = cue
        elif cue == "verb":
            self.close_run()
            self.noun = self.located or self.noun
            self.link = "verb"
        elif cue == "suggests":
            self.close_run()
            self.noun = self.located or self.noun
            self.finding = self.noun[0] if self.noun else None
            self.link = None
        elif cue in ("breaks", "shows", "negates"):
            self.close_run()
            self.noun = self.located = self.finding = self.link = None

    def close_run(self) -> None:
        """Relate the run's entities to each other and its head to the noun before it."""
        run, self.run = self.run, []
        self.run_open, self.run_is_bare = False, True
        if not run:
            return
        loose, nouns = _relate_within(run, self.relations)
        if not nouns:
            if self.noun:
                for text in loose:
                    self._add(text, self.noun[0], MODIFY)
            return
        head = nouns[-1]
        if self.finding is not None and head[1] == DISORDER_PRESENT:
            self._add(self.finding, head[0], SUGGESTIVE_OF)
        self._place(nouns)
        self.noun = head

    def _place(self, nouns: list[tuple[str, str]]) -> None:
        head, noun = nouns[-1], self.noun
        if noun is None or not (self.link in _LINKS or (self.link == "list" and self.located and head[1] == ANATOMY)):
            self.located = None
            return
        known = _LINKED.get((noun[1], head[1]))
        if known is None:
            self.located = None
            return
        relation, backwards = known
        self._add(*((head[0], noun[0]) if backwards else (noun[0], head[0])), relation)
        self.located = noun

    def _add(self, source: str, target: str, relation: str) -> None:
        if source != target:
            self.relations[source, target, relation] = None


def _kind(item: tuple) -> str | None:
    """The kind of noun an entity is; None for a modifier."""
    return _CONCEPT_KINDS.get(item[2]) if item[1] == CONCEPT else item[1]


def _relate_within(run: list[tuple], relations: dict[Triple, None]) -> tuple[list[str], list[tuple[str, str]]]:
    """Add the relations inside a run; return the modifiers left without a target and the nouns (text, kind)."""
    nouns: list[tuple[str, str]] = []
    loose: list[str] = []
    next_text = next_noun = next_place = next_thing = None
    for item in reversed(run):
        text, label, role = item[0], item[1], item[2]
        kind = _kind(item)
        if kind is None:
            if role == "degree":
                target = next_text
            elif role == "side":
                target = next_place or next_thing
            else:
                target = next_thing or next_place
            if target is None:
                loose.append(text)
            elif target != text:
                relations[text, target, MODIFY] = None
        else:
            nouns.append((text, kind))
            if next_noun is not None and text != next_noun[0]:
                known = _NEIGHBOURS.get((kind, next_noun[1]))
                if known:
                    source, target = (next_noun[0], text) if known[1] else (text, next_noun[0])
                    relations[source, target, known[0]] = None
                elif label == CONCEPT:
                    relations[text, next_noun[0], MODIFY] = None
            next_noun = (text, kind)
            if kind == ANATOMY:
                next_place = text
            else:
                next_thing = text
        next_text = text
    nouns.reverse()
    return loose, nouns

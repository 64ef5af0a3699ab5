"""What belongs to what: relations between the entities of a sentence.

A *run* is a noun phrase: entities side by side ("small left pleural effusion"), or modifiers joined by commas and
"and" ("small, loculated"). Its last noun is its head. Rules:
- modifier: in a run, a side or place word modifies the next anatomy ("left" pleural), a degree the next word
  ("mildly" enlarged), any other concept the next noun that is not anatomy ("small" effusion; of several of a kind the
  last, "new" endotracheal tube), or without one the last anatomy.
- neighbour: in a run, a noun relates to the next noun by their types (`_NEIGHBOURS`: effusion located_at pleural).
- predicate: modifiers with no noun after them modify the noun before them ("the lungs are *clear*"); a disorder that is
  a state is located there ("the lungs are *hyperinflated*").
- place: a run after "in", "at", "of", "with" relates to the noun before it by their types (`_LINKED`), and so do
  further places after "and".
- suggestion: after "suggestive of", "likely", "due to" ..., disorders are what the finding before it suggests, and of
  "hyperinflated lungs" the finding is not the lungs.
A verb keeps the noun before it, a new clause forgets it. Every entity is attached to at most a few others, so the time
is linear in the sentence.
"""

from __future__ import annotations

from collections.abc import Sequence

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
from ReXKG.lexicon.items import CONCEPT_KINDS, EVENT, GAP, NOUN, OUTLINE, Item

Triple = tuple[str, str, str]
# How an entity follows the one before it: side by side, across a comma or "and", or across other words.
ADJACENT, LISTED, APART = 0, 1, 2

_CONCEPTS = frozenset(CONCEPT_KINDS.values())
_PREDICATES = frozenset({NOUN, PROCEDURES})
_PLACES = frozenset({ANATOMY, SIZE})

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
    (DISORDER_PRESENT, DISORDER_PRESENT): (MODIFY, False),
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
    (DEVICES_PRESENT, NOUN): (LOCATED_AT, True),
    (PROCEDURES, ANATOMY): (LOCATED_AT, False),
    (PROCEDURES, DEVICES_PRESENT): (LOCATED_AT, False),
    (ANATOMY, ANATOMY): (LOCATED_AT, False),
    (ANATOMY, DEVICES_PRESENT): (LOCATED_AT, False),
    (ANATOMY, DISORDER_PRESENT): (LOCATED_AT, True),
    (ANATOMY, SIZE): (MODIFY, True),
    (DISORDER_PRESENT, SIZE): (MODIFY, True),
    (DISORDER_PRESENT, OUTLINE): (LOCATED_AT, False),
    (ANATOMY, PROCEDURES): (LOCATED_AT, False),
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
_FORGETTING = frozenset({"breaks", "shows", "negates"})


def attach(items: Sequence[Item]) -> tuple[Triple, ...]:
    """The relations of a sentence's items, without repeats, in order of discovery."""
    reader = _Reader()
    gap = APART
    for item in items:
        if item is GAP:
            gap = APART
            continue
        _, label, _, _, cue = item
        if label is not None:
            reader.read_entity(item, gap)
            gap = ADJACENT
        elif cue != "list":
            gap = APART
        elif gap == ADJACENT:
            gap = LISTED
        if cue is not None:
            reader.read_cue(cue, label is not None)
    reader.close_run()
    return tuple(reader.relations)


class _Reader:
    """What is remembered of a sentence while it is read from left to right."""

    def __init__(self) -> None:
        self.relations: dict[Triple, None] = {}
        self.run: list[Item] = []
        self.run_is_bare = True  # modifiers only so far
        self.run_is_open = False  # the next entity joins whatever lies between: "above the carina"
        self.link: str | None = None  # the cue between the last noun and the run
        self.noun: Item | None = None  # what the run may belong to
        self.placed: Item | None = None  # the noun whose place was told last, and what kind of place
        self.place_kind: str | None = None
        self.guess: Triple | None = None  # a further place that a verb would show to be a subject: "and the heart is"
        self.thing: Item | None = None  # the last noun that is no place
        self.finding: Item | None = None  # what a suggestion explains

    def read_entity(self, item: Item, gap: int) -> None:
        """Add an entity to the run, or begin a new run with it; ``gap`` tells how it follows the last entity."""
        _, _, kind, _, cue = item
        if cue in _LINKS:
            joins = self.run_is_bare
        else:
            joins = gap == ADJACENT or self.run_is_open or (gap == LISTED and self._is_unfinished())
        if not joins:
            self.close_run()
        self.run.append(item)
        self.run_is_open = False
        if kind is not None and kind != SIZE:
            self.run_is_bare = False

    def _is_unfinished(self) -> bool:
        """Modifiers that still wait for their noun, and do not speak of the noun before a verb."""
        return self.run_is_bare and not (self.noun and self.link == "verb")

    def read_cue(self, cue: str, is_entity: bool) -> None:
        """Close the run where the cue ends it, and remember how the next one is linked."""
        if cue == "list":
            if not (self.run and self._is_unfinished()):
                self.close_run()
                self.noun = self.placed or self.noun
                if self.link != "verb":
                    self.link = cue
        elif cue in _LINKS:
            if is_entity or (cue == "of" and self.run and self.run_is_bare and not self.noun):
                self.run_is_open = True
            else:
                self.close_run()
            self.link = cue
        elif cue == "verb" or cue == "suggests":
            self.close_run()
            if self.guess:
                del self.relations[self.guess]
                self.placed = self.guess = None
            self.noun = self.placed or self.noun
            self.link = cue
            is_place = self.noun is not None and self.noun.kind == ANATOMY
            self.finding = None if cue == "verb" else (is_place and self.thing) or self.noun
        elif cue in _FORGETTING and not is_entity:
            self.close_run()
            self.noun = self.placed = self.guess = self.thing = self.finding = self.link = None

    def close_run(self) -> None:
        """Relate the run's entities to each other and its head to the noun before it."""
        run = self.run
        if not run:
            return
        self.run, self.run_is_bare, self.run_is_open = [], True, False
        loose, nouns = _relate_within(run, self.relations)
        if not nouns:
            self._describe(self.noun, loose)
        elif self.noun and self.link == "verb" and all(noun.kind in _PREDICATES for noun in nouns):
            self._describe(self.noun, [nouns[-1], *loose])
        elif self.noun and self.link == "verb" and nouns[-1].role == "state":
            self._add(nouns[-1], self.noun, LOCATED_AT)
            self._describe(nouns[-1], loose)
        else:
            head = nouns[-2] if _is_measure(nouns[-1]) and len(nouns) > 1 else nouns[-1]
            if self.finding and head.kind == DISORDER_PRESENT:
                self._add(self.finding, head, SUGGESTIVE_OF)
            self._place(head)
            self._describe(head if self.link == "with" else self.placed or head, loose)
            if head.kind != SIZE or self.noun is None or self.noun.kind == EVENT:
                self.noun = head
            self.thing = next((noun for noun in reversed(nouns) if noun.kind not in _PLACES), self.thing)
        if self.link != "verb":
            self.link = None

    def _place(self, head: Item) -> None:
        """Relate a head to the noun before it, across the cue between them."""
        noun, link = self.noun, self.link
        listed = link == "list" and head.kind == self.place_kind
        known = None
        if noun and (link in _LINKS or listed or head.kind == SIZE):
            known = _LINKED.get((noun.kind, head.kind))
        if known is None or (link == "with" and (noun.kind != DEVICES_PRESENT or head.kind != ANATOMY)):
            self.placed = self.place_kind = self.guess = None
            return
        relation, backwards = known
        triple = self._add(head, noun, relation) if backwards else self._add(noun, head, relation)
        self.placed, self.place_kind = noun, head.kind
        self.guess = triple if listed else None

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
    return item.kind == SIZE and item.role != "noun"


def _relate_within(run: list[Item], relations: dict[Triple, None]) -> tuple[list[Item], list[Item]]:
    """Add the relations inside a run; return its modifiers without a noun after them, and its nouns."""
    if len(run) == 1:
        return ([], run) if run[0].kind else (run, [])
    found: list[Triple] = []
    nouns: list[Item] = []
    loose: list[Item] = []
    next_item = next_noun = GAP
    next_place = last_place = next_thing = head_thing = ""
    for item in reversed(run):
        text, _, kind, role, _ = item
        if kind is None:
            if role == "degree":
                target = next_item.text
            elif role == "side":
                target = next_place or next_thing
            else:
                target = head_thing or last_place
            if not target:
                loose.append(item)
            elif target != text:
                found.append((text, target, MODIFY))
        else:
            if kind == SIZE and next_item.cue in _LINKS:
                found.append((text, next_item.text, MODIFY))
            elif nouns and text != next_noun.text:
                relation, backwards = _NEIGHBOURS.get((kind, next_noun.kind), (None, False))
                if relation is None and kind in _CONCEPTS:
                    relation = MODIFY
                if relation is not None:
                    found.append((next_noun.text, text, relation) if backwards else (text, next_noun.text, relation))
            next_noun = item
            nouns.append(item)
            if kind == ANATOMY:
                next_place = text
                last_place = last_place or text
            else:
                next_thing = text
                head_thing = head_thing if kind == next_item.kind else text
        next_item = item
    for triple in reversed(found):
        relations[triple] = None
    nouns.reverse()
    return loose, nouns

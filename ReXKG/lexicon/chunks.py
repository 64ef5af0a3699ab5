"""Relations inside a chunk. A *chunk* is a noun phrase: entities side by side ("small left pleural effusion"), or
modifiers joined by commas and "and" before their noun ("small, loculated effusion"). Two rules relate its entities:

- modifier: a side or place word modifies the next anatomy ("left" pleural), a degree the next word ("mildly" enlarged).
  Any other concept modifies the next noun that is not anatomy ("small" effusion; of several of a kind the last, "new"
  endotracheal tube), or if there is none, the last anatomy.
- neighbor: a noun relates to the next noun by their kinds (`NEIGHBORS`: effusion located_at pleural).
"""

from __future__ import annotations

from collections.abc import Sequence

from ReXKG.graph import ANATOMY, DEVICES_PRESENT, DISORDER_PRESENT, LOCATED_AT, MODIFY, PROCEDURES, SIZE
from ReXKG.lexicon import cues, roles
from ReXKG.lexicon.items import CONCEPT_KINDS, EVENT_CONCEPT, GAP, NOUN_CONCEPT, OUTLINE_CONCEPT, Item

Triple = tuple[str, str, str]
# Cues before the place, owner or company of the noun before them.
LINKS = frozenset({cues.AT, cues.OF, cues.WITH})
# The direction of a relation between two nouns.
TO_LATER, TO_EARLIER = False, True
# (kind of the earlier noun, kind of the later noun) to the relation and its direction.
NEIGHBORS = {
    (ANATOMY, ANATOMY): (LOCATED_AT, TO_LATER),
    (ANATOMY, DISORDER_PRESENT): (LOCATED_AT, TO_EARLIER),
    (ANATOMY, DEVICES_PRESENT): (LOCATED_AT, TO_EARLIER),
    (ANATOMY, PROCEDURES): (LOCATED_AT, TO_EARLIER),
    (ANATOMY, NOUN_CONCEPT): (LOCATED_AT, TO_EARLIER),
    (ANATOMY, EVENT_CONCEPT): (MODIFY, TO_EARLIER),
    (ANATOMY, OUTLINE_CONCEPT): (LOCATED_AT, TO_LATER),
    (ANATOMY, SIZE): (MODIFY, TO_EARLIER),
    (DISORDER_PRESENT, ANATOMY): (LOCATED_AT, TO_LATER),
    (DISORDER_PRESENT, DISORDER_PRESENT): (MODIFY, TO_LATER),
    (DISORDER_PRESENT, NOUN_CONCEPT): (MODIFY, TO_LATER),
    (DISORDER_PRESENT, EVENT_CONCEPT): (MODIFY, TO_EARLIER),
    (DISORDER_PRESENT, SIZE): (MODIFY, TO_EARLIER),
    (DEVICES_PRESENT, DEVICES_PRESENT): (MODIFY, TO_LATER),
    (DEVICES_PRESENT, ANATOMY): (LOCATED_AT, TO_LATER),
    (DEVICES_PRESENT, PROCEDURES): (LOCATED_AT, TO_EARLIER),
    (DEVICES_PRESENT, NOUN_CONCEPT): (LOCATED_AT, TO_EARLIER),
    (PROCEDURES, DEVICES_PRESENT): (LOCATED_AT, TO_LATER),
    (PROCEDURES, PROCEDURES): (MODIFY, TO_LATER),
    (PROCEDURES, ANATOMY): (LOCATED_AT, TO_LATER),
    (SIZE, DISORDER_PRESENT): (MODIFY, TO_LATER),
    (SIZE, DEVICES_PRESENT): (MODIFY, TO_LATER),
    (SIZE, ANATOMY): (MODIFY, TO_LATER),
    (SIZE, NOUN_CONCEPT): (MODIFY, TO_LATER),
    (OUTLINE_CONCEPT, SIZE): (LOCATED_AT, TO_EARLIER),
}
# A concept of these kinds modifies any next noun that `NEIGHBORS` does not relate it to.
_CONCEPTS = frozenset(CONCEPT_KINDS.values())
_UNRELATED = None, TO_LATER


def relate_within(chunk: Sequence[Item], relations: dict[Triple, None]) -> tuple[list[Item], list[Item]]:
    """Add the relations inside a chunk to ``relations``.

    Returns:
        Its modifiers that found nothing to modify, the last first, and its nouns in order.
    """
    if len(chunk) == 1:
        return ([], [chunk[0]]) if chunk[0].kind else ([chunk[0]], [])
    triples: list[Triple] = []
    nouns: list[Item] = []
    loose: list[Item] = []
    # Read backwards, so that what an entity modifies is known when it is met. "Thing": a noun that is not anatomy.
    next_item = next_noun = GAP
    next_place = last_place = next_thing = head_thing = ""
    for item in reversed(chunk):
        text, _, kind, role, _ = item
        if kind is None:
            if role == roles.DEGREE:
                target = next_item.text
            elif role == roles.SIDE:
                target = next_place or next_thing
            else:
                target = head_thing or last_place
            if not target:
                loose.append(item)
            elif target != text:
                triples.append((text, target, MODIFY))
        else:
            if kind == SIZE and next_item.cue in LINKS:
                triples.append((text, next_item.text, MODIFY))
            elif nouns and text != next_noun.text:
                relation, direction = NEIGHBORS.get((kind, next_noun.kind), _UNRELATED)
                if relation is None and kind in _CONCEPTS:
                    relation = MODIFY
                if relation is not None:
                    source, target = (next_noun.text, text) if direction is TO_EARLIER else (text, next_noun.text)
                    triples.append((source, target, relation))
            next_noun = item
            nouns.append(item)
            if kind == ANATOMY:
                next_place = text
                last_place = last_place or text
            else:
                next_thing = text
                head_thing = head_thing if kind == next_item.kind else text
        next_item = item
    for triple in reversed(triples):
        relations[triple] = None
    nouns.reverse()
    return loose, nouns

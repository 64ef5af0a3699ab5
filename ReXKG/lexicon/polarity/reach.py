"""The reach of a negation: which entities it denies, and where it ends without a word that ends it."""

from __future__ import annotations

from ReXKG.graph import (
    ANATOMY,
    CONCEPT,
    DEVICES_ABSENT,
    DEVICES_PRESENT,
    DISORDER_ABSENT,
    DISORDER_PRESENT,
    PROCEDURES,
    SIZE,
)
from ReXKG.lexicon import cues, roles
from ReXKG.lexicon.polarity.reading import ABSENT, ANY_ABSENT, ANY_FINDING, Reading

_NEAR = 12
_BEFORE_NOUN = frozenset({ANATOMY, CONCEPT, PROCEDURES, SIZE})
_SAYING = frozenset({"that", "believe", "think", "conclude", "say"})
_ENDS_OF_LIST = frozenset({cues.BREAKS, cues.ENDS, *cues.VERBS, cues.NEGATES})


def read_entity(reading: Reading, i: int, label: str, role: str) -> None:
    """Deny an entity that a negation reaches, and leave out a disorder or device of a scope. A negation ends before
    the course of another member of its list ("no pneumothorax, *stable* effusion"), and does not reach a device in
    a place ("no kink in the *catheter*")."""
    if reading.scope is not None:
        if label in ABSENT or role == roles.FINDING:
            reading.labels[i] = None
            reading.left_out = True
    elif reading.negation is not None:
        if reading.denied and reading.after_list and not reading.heads_list and _leaves_list(reading, i, label, role):
            reading.negation = None
        elif i == reading.judged:
            reading.judged = None
        elif label == DISORDER_PRESENT or (label == DEVICES_PRESENT and not reading.in_place):
            _deny_entity(reading, i, ABSENT[label])
        elif role == roles.FINDING or (role == roles.STATE and reading.negation == cues.NOT):
            _deny_entity(reading, i, DISORDER_ABSENT)
        elif label == ANATOMY and reading.heading_to_deny is not None and reading.negation == cues.NEGATES:
            _deny_heading(reading)
        elif role == roles.COURSE and reading.denied:
            if reading.after_list:
                reading.negation = None
            elif reading.labels[i - 1] in ANY_ABSENT:
                spare_since_comma(reading, i)
        if role == roles.STATE and reading.items[i - 1].label == ANATOMY:
            spare_since_comma(reading, i + 1)
    if label in ABSENT:
        reading.doubt = None
        reading.named, reading.named_end = reading.clause, i + 1
    if label not in _BEFORE_NOUN:
        reading.after_list = False


def _deny_entity(reading: Reading, i: int, label: str) -> None:
    reading.labels[i] = label
    reading.denied = True
    if reading.heading_to_deny is not None:
        _deny_heading(reading)
    elif reading.negation == cues.NOT and reading.topic is not None and reading.topic.is_heading:
        leave_out_heading(reading, i)


def leave_out_heading(reading: Reading, i: int) -> None:
    """Leave out a heading whose text says something else than that it is there ("cardiomegaly: the heart is *not
    enlarged*")."""
    topic = reading.topic
    if topic is None or not topic.is_heading or i - topic.end > _NEAR:
        return
    if not any(label in ABSENT for label in reading.labels[topic.end : i]):
        reading.leave_out(topic.start, topic.end)


def _deny_heading(reading: Reading) -> None:
    heading, reading.heading_to_deny = reading.heading_to_deny, None
    reading.deny(heading.start, heading.end, ANY_FINDING)


def _leaves_list(reading: Reading, i: int, label: str, role: str) -> bool:
    """True for what is no further member of a denied list: a device after disorders ("no pneumothorax, chest *tube* in
    place"), what was denied already ("no effusion on the left, *effusion* on the right"), what alone has no "no" ("no
    effusion, no edema, *cardiomegaly*"), what alone has a place behind a list with "or", and the state of an organ
    ("no edema, *enlarged* heart")."""
    if reading.items[reading.last_mark].text != ",":
        return False
    if role == roles.STATE and i + 1 < len(reading.items) and reading.items[i + 1].label == ANATOMY:
        return not list_goes_on(reading, i)
    if label not in ABSENT:
        return False
    first = max(reading.negation_at, reading.last_mark - _NEAR)
    before = reading.items[first : reading.last_mark]
    if reading.repeats or (_is_placed(reading, i) and any(item.text == "or" for item in before)):
        leaves = True
    elif label == DEVICES_PRESENT:
        leaves = DEVICES_ABSENT not in reading.labels[first : reading.last_mark]
    else:
        leaves = any(item.text == reading.items[i].text for item in before)
    return leaves and not list_goes_on(reading, i)


def _is_placed(reading: Reading, i: int) -> bool:
    """True if a place follows right behind the entity ("... or mass, *hernia* in the midline")."""
    return reading.negation == cues.NEGATES and any(item.cue == cues.AT for item in reading.items[i + 1 : i + 2])


def list_goes_on(reading: Reading, i: int) -> bool:
    """True if an "or" or the like follows within the list."""
    for item in reading.items[i + 1 : i + _NEAR]:
        if item.cue in _ENDS_OF_LIST:
            break
        if item.cue == cues.LIST and item.text not in (",", "and"):
            return True
    return False


def spare_since_comma(reading: Reading, i: int) -> None:
    """End a negation at a word that makes what follows its only comma a clause of its own, not denied ("no
    pneumothorax, mild edema *is* present")."""
    if reading.negation is not None and reading.list_marks == 1 and reading.items[reading.last_mark].text == ",":
        reading.restore(reading.last_mark, i)
        reading.negation = None


def spare_known_subject(reading: Reading, i: int) -> None:
    """Spare the known thing that a judgment names before its verb, and wait for what it is not ("I do *not* think
    *the opacity* is pneumonia")."""
    start = reading.negation_at + 2
    if reading.negation not in (cues.NOT, cues.LACKS) or not reading.denied or reading.list_marks or i - start > _NEAR:
        return
    before = reading.items[start:i]
    first = next((place for place, item in enumerate(before) if item.label is not None), 0)
    if first and before[first - 1].cue == cues.ARTICLE and reading.labels[i - 1] in ABSENT.values():
        reading.restore(start, i)
        reading.denied, reading.is_unsure = False, True


def is_denied_by_judgment(reading: Reading) -> bool:
    """True if a judgment has denied what its own clause denies further on ("I do *not* think the effusion *has*
    resolved", "no evidence *that*")."""
    if (
        not reading.denied
        or reading.list_marks
        or reading.negation_at < reading.clause
        or reading.outside
        or reading.topic
    ):
        return False
    begun = reading.items[reading.negation_at : reading.negation_at + _NEAR]
    return begun[0].cue in (cues.NOT, cues.LACKS) or any(item.text in _SAYING for item in begun)

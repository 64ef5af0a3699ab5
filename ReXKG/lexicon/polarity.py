"""Who is negated: present or not for each disorder and device of a sentence.

Rules, by the cue that fires them (`cues.tsv`):
- negates, not: what follows is absent ("no", "without", "free of"), until the clause ends, a verb comes ("no effusion
  *is* seen") or, for devices, a preposition ("no kink *in* the catheter").
- negates_before: what the clause said so far is absent ("has resolved", "is not seen"); with nothing before it, what
  follows is. The device that another noun belongs to is not meant ("the tip *of the tube* is not seen").
- removed: the devices that the clause named so far are absent ("the tube has been removed"). The noun does not negate:
  annotators of real reports call the tube of "removal of the tube" present about twice as often as absent.
- spares: "no *change*" or "without *improvement*" negates the change, not the finding; right before a noun or "or" it
  is an adjective and does not spare it ("no *worsening* opacity").
- list: a comma, "and" or "or" carries a negation on, but starts a new clause after a verb, and ends the negation where
  the course of something else is told ("no pneumothorax, *stable* effusion") or a known thing is named ("no effusion,
  and *the* heart"). What stands between a single comma and a verb is a clause of its own ("no pneumothorax, *mild edema
  is* present").
- breaks: a new clause ("but", "there", ";"). "with" ends a negation only.

Some concepts are denied as disorders are, as annotators did: a finding ("no acute *process*") by any negation, a state
by "not" ("is not *enlarged*"; "no enlarged nodes" denies the nodes).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ReXKG.graph import CONCEPT, DEVICES_ABSENT, DEVICES_PRESENT, DISORDER_ABSENT, DISORDER_PRESENT
from ReXKG.lexicon.items import Item

_ABSENT = {DISORDER_PRESENT: DISORDER_ABSENT, DEVICES_PRESENT: DEVICES_ABSENT}
_DEVICES = frozenset({DEVICES_PRESENT, DEVICES_ABSENT})
_DENIABLE = frozenset({*_ABSENT, *_ABSENT.values()})


def resolve_polarity(items: Sequence[Item]) -> list[str | None]:
    """The label of each item, disorders and devices turned into their "notpresent" form where the sentence denies them.
    Linear: a clause is looked back on once."""
    labels = [item.label for item in items]
    clause = 0  # where the clause begins
    negating: str | None = None  # the cue that negates
    denied = False  # the negation has met what it denies
    in_place = False  # a preposition came after the negation
    verb = False  # the clause has its verb, and no negation after it
    listed = False  # the next entity follows a comma, "and" or "or"
    commas = 0
    for i, (_, label, _, role, cue) in enumerate(items):
        if label is not None:
            if negating:
                if label == DISORDER_PRESENT or (label == DEVICES_PRESENT and not in_place):
                    labels[i] = _ABSENT[label]
                    denied = True
                elif role == "finding" or (role == "state" and negating == "not"):
                    labels[i] = DISORDER_ABSENT
                    denied = True
                elif listed and denied and role == "course":
                    negating = None
            listed = False
        if cue is None or cue == "gap":
            continue
        if cue == "negates" or cue == "not":
            negating, denied, in_place, verb, commas = cue, False, False, False, 0
        elif cue == "list":
            listed = True
            commas += 1
            if verb:
                clause, negating, verb = i, None, False
        elif cue == "verb":
            if negating and commas == 1:
                _restore_after_comma(labels, items, i)
            negating, verb = None, True
        elif cue == "at":
            in_place = True
        elif cue == "of":
            in_place = in_place or denied
        elif cue == "spares":
            following = items[i + 1] if i + 1 < len(items) else None
            if not (denied or (following and (following.label or following.text == "or"))):
                negating = None
        elif cue == "article":
            negating = None if listed else negating
        elif cue == "negates_before":
            if not _deny(labels, items, range(clause, i), _DENIABLE):
                negating, denied, in_place, commas = cue, False, False, 0
            clause = i
        elif cue == "removed":
            _deny(labels, items, range(clause, i), _DEVICES)
            clause = i
        elif cue == "breaks":
            clause, negating, verb = i, None, False
        elif cue == "with":
            negating = None
    return labels


def _deny(labels: list[str | None], items: Sequence[Item], span: range, kinds: Collection[str]) -> bool:
    """Turn the items of the span that are of these kinds absent; False if there were none."""
    named = owner = found = False
    for i in span:
        label = labels[i]
        if label is None:
            owner = owner or (named and items[i].cue == "of")
        elif label in kinds and not (owner and label in _DEVICES):
            labels[i] = _ABSENT.get(label, label)
            found = True
        elif label == CONCEPT and items[i].role == "finding" and DISORDER_PRESENT in kinds:
            labels[i] = DISORDER_ABSENT
            found = True
        named = named or items[i].kind is not None
    return found


def _restore_after_comma(labels: list[str | None], items: Sequence[Item], end: int) -> None:
    """Give the items before ``end`` their own labels back, as far as the comma before them (not as far as an "or")."""
    start = next(i for i in range(end - 1, -1, -1) if items[i].cue == "list")
    if items[start].text == ",":
        labels[start:end] = [item.label for item in items[start:end]]

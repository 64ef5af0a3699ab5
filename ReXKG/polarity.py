"""Who is negated: present or not for each disorder and device of a sentence.

Rules, by the cue that fires them (`cues.tsv`):
- negates, not: what follows is absent ("no", "without", "free of"), until the clause ends, a verb comes ("no effusion
  *is* seen") or, for devices, a preposition ("no kink *in* the catheter").
- negates_before: what the clause said so far is absent ("has resolved", "is not seen"); with nothing before it, what
  follows is.
- removes, removed_before: the same for devices only ("removal of", "tube removal"; "has been removed").
- spares: "no *change*" or "without *improvement*" negates the change, not the finding.
- list: a comma, "and" or "or" carries a negation on, but starts a new clause after a verb, and ends the negation where
  the course of something else is told ("no pneumothorax, *stable* effusion"). What stands between a single comma and a
  verb is a clause of its own ("no pneumothorax, *mild edema is* present").
- breaks: a new clause ("but", "which", ";"). "with" ends a negation only.
"""

from __future__ import annotations

from collections.abc import Sequence

from ReXKG.graph import DEVICES_ABSENT, DEVICES_PRESENT, DISORDER_ABSENT, DISORDER_PRESENT
from ReXKG.items import Item

_ABSENT = {DISORDER_PRESENT: DISORDER_ABSENT, DEVICES_PRESENT: DEVICES_ABSENT}


def resolve_polarity(items: Sequence[Item]) -> list[str | None]:
    """The label of each item, disorders and devices turned into their "notpresent" form where the sentence denies them.
    Linear: a clause is looked back on once."""
    labels = [item.label for item in items]
    clause = 0
    comma: int | None = None
    separators = 0
    negating = removing = in_place = told = listed = verb = False
    for i, (text, label, _, role, cue) in enumerate(items):
        if label is not None:
            if label == DISORDER_PRESENT:
                if negating:
                    labels[i] = DISORDER_ABSENT
                    told = True
            elif label == DEVICES_PRESENT:
                if (negating and not in_place) or removing:
                    labels[i] = DEVICES_ABSENT
                    told = True
            elif listed and told and role == "course":
                negating = removing = False
            listed = False
        if cue is None:
            continue
        if cue in ("negates", "not"):
            negating, in_place, told, verb = True, False, False, False
            comma, separators = None, 0
        elif cue == "list":
            listed = True
            comma = i if text == "," and not separators else None
            separators += 1
            if verb:
                clause, negating, removing, verb = i, False, False, False
        elif cue == "verb":
            if negating and comma is not None:
                labels[comma:i] = [item.label for item in items[comma:i]]
            verb, negating, removing, comma = True, False, False, None
        elif cue == "at":
            in_place = True
        elif cue == "spares":
            negating = negating and told
        elif cue in ("negates_before", "removed_before"):
            if not _deny(labels, clause, i, devices_only=cue == "removed_before"):
                negating, removing, told = cue == "negates_before", cue == "removed_before", False
            clause = i
        elif cue == "removes":
            removing = True
            _deny_devices_before(labels, i)
        elif cue == "breaks":
            clause, negating, removing, verb = i, False, False, False
        elif cue == "with":
            negating = removing = False
    return labels


def _deny(labels: list[str | None], start: int, end: int, devices_only: bool) -> bool:
    """Turn the disorders and devices of items start..end-1 absent; False if there were none."""
    kinds = (DEVICES_PRESENT, DEVICES_ABSENT) if devices_only else (*_ABSENT, *_ABSENT.values())
    found = [i for i in range(start, end) if labels[i] in kinds]
    for i in found:
        labels[i] = _ABSENT.get(labels[i], labels[i])
    return bool(found)


def _deny_devices_before(labels: list[str | None], i: int) -> None:
    """Turn the devices right before item i absent: "chest *tube* removal"."""
    while i > 0 and labels[i - 1] == DEVICES_PRESENT:
        i -= 1
        labels[i] = DEVICES_ABSENT

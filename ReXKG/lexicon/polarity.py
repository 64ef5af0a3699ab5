"""Negation: present or not for each disorder and device of a sentence.

The items are read from left to right. Each is first read as an entity, if it is one (`_Reading.read_entity`), and then
by the rule of its cue, if `POLARITY_RULES` has one. A rule may change what a negation reaches from there on, or deny
what the clause has said so far. A rule's docstring says what it does and gives the example that it is for.

Some concepts are denied as disorders are, as annotators did: a finding ("no acute *process*") by any negation, a state
by "not" ("is not *enlarged*"; "no enlarged nodes" denies the nodes).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from ReXKG.graph import CONCEPT, DEVICES_ABSENT, DEVICES_PRESENT, DISORDER_ABSENT, DISORDER_PRESENT
from ReXKG.lexicon import cues, roles
from ReXKG.lexicon.items import Item

_ABSENT = {DISORDER_PRESENT: DISORDER_ABSENT, DEVICES_PRESENT: DEVICES_ABSENT}
_DEVICES = frozenset({DEVICES_PRESENT, DEVICES_ABSENT})
_DISORDERS_AND_DEVICES = frozenset({*_ABSENT, *_ABSENT.values()})


def resolve_polarity(items: Sequence[Item]) -> list[str | None]:
    """The label of each item, disorders and devices turned into their "notpresent" form if the sentence denies them.
    Linear: a clause is looked back on once."""
    reading = _Reading(items)
    read_entity, rules = reading.read_entity, POLARITY_RULES
    for i, (_, label, _, role, cue) in enumerate(items):
        if label is not None:
            read_entity(i, label, role)
        if cue is not None and cue in rules:
            rules[cue](reading, i)
    return reading.labels


class _Reading:
    """The state of a sentence that is read from left to right. ``i`` is the position of the item being read."""

    __slots__ = ("after_list", "clause", "denied", "has_verb", "in_place", "items", "labels", "list_marks", "negation")

    def __init__(self, items: Sequence[Item]) -> None:
        self.items = items
        self.labels = [item.label for item in items]
        self.clause = 0  # where the clause begins
        self.has_verb = False  # the clause has its verb, and no negation after it
        self.negation: str | None = None  # the cue that denies what follows
        self.denied = False  # the negation has met what it denies
        self.in_place = False  # a preposition came after the negation
        self.list_marks = 0  # commas, "and" and "or" since the negation
        self.after_list = False  # the next entity follows a comma, "and" or "or"

    def read_entity(self, i: int, label: str, role: str) -> None:
        """Deny an entity that a negation reaches. A negation ends before the course of another member of its list ("no
        pneumothorax, *stable* effusion"), and does not reach a device in a place ("no kink in the *catheter*")."""
        if self.negation is not None:
            if label == DISORDER_PRESENT or (label == DEVICES_PRESENT and not self.in_place):
                self.labels[i] = _ABSENT[label]
                self.denied = True
            elif role == roles.FINDING or (role == roles.STATE and self.negation == cues.NOT):
                self.labels[i] = DISORDER_ABSENT
                self.denied = True
            elif self.after_list and self.denied and role == roles.COURSE:
                self.negation = None
        self.after_list = False

    def begin_negation(self, i: int) -> None:
        """Deny the entities that follow ("no", "without", "free of") until another rule ends the negation."""
        self.negation = self.items[i].cue
        self.denied = self.in_place = self.has_verb = False
        self.list_marks = 0

    def end_negation(self, i: int) -> None:
        """End a negation before the company of what it denies ("no effusion *with* the tube")."""
        self.negation = None

    def begin_clause(self, i: int) -> None:
        """Begin a clause ("but", "there", ";"). No negation crosses its beginning in either direction."""
        self.clause, self.negation, self.has_verb = i, None, False

    def read_list_mark(self, i: int) -> None:
        """Let a negation reach beyond a comma, "and" or "or". After a verb the list mark begins a clause."""
        self.after_list = True
        self.list_marks += 1
        if self.has_verb:
            self.begin_clause(i)

    def read_article(self, i: int) -> None:
        """End a negation at a known thing that is named after a list mark ("no effusion, and *the* heart ...")."""
        if self.after_list:
            self.negation = None

    def read_verb(self, i: int) -> None:
        """End a negation at a verb ("no effusion *is* seen"). The words between a single comma and the verb are a
        clause of their own and are not denied ("no pneumothorax, *mild edema is* present")."""
        if self.negation is not None and self.list_marks == 1:
            self._restore_since_comma(i)
        self.negation, self.has_verb = None, True

    def read_place(self, i: int) -> None:
        """Let a negation reach no device after a preposition ("no kink *in* the catheter")."""
        self.in_place = True

    def read_owner(self, i: int) -> None:
        """Let a negation reach no device after "of", if it has met what it denies ("no fracture *of* the lead")."""
        self.in_place = self.in_place or self.denied

    def spare(self, i: int) -> None:
        """End a negation at the change that it denies: the finding is spared ("no *change* in the opacity"). Right
        before an entity or "or" the word is an adjective and spares nothing ("no *worsening* opacity")."""
        following = self.items[i + 1] if i + 1 < len(self.items) else None
        if not (self.denied or (following and (following.label or following.text == "or"))):
            self.negation = None

    def deny_before(self, i: int) -> None:
        """Deny the entities of the clause so far ("... has *resolved*", "... is *not seen*"). If there are none, deny
        those that follow."""
        if not self._deny_clause(i, _DISORDERS_AND_DEVICES):
            self.negation = self.items[i].cue
            self.denied = self.in_place = False
            self.list_marks = 0
        self.clause = i

    def deny_devices_before(self, i: int) -> None:
        """Deny the devices of the clause so far ("the tube has been *removed*"). The noun "removal" is not a cue:
        annotators of real reports call the tube of "removal of the tube" present about twice as often as absent."""
        self._deny_clause(i, _DEVICES)
        self.clause = i

    def _deny_clause(self, end: int, denied_labels: Collection[str]) -> bool:
        """Make the clause's entities before ``end`` that have these labels absent; False if there were none. The device
        that another noun belongs to is not denied ("the tip *of the tube* is not seen")."""
        has_noun = after_owner = any_denied = False
        for i in range(self.clause, end):
            label, item = self.labels[i], self.items[i]
            if label is None:
                after_owner = after_owner or (has_noun and item.cue == cues.OF)
            elif label in denied_labels and not (after_owner and label in _DEVICES):
                self.labels[i] = _ABSENT.get(label, label)
                any_denied = True
            elif label == CONCEPT and item.role == roles.FINDING and DISORDER_PRESENT in denied_labels:
                self.labels[i] = DISORDER_ABSENT
                any_denied = True
            has_noun = has_noun or item.kind is not None
        return any_denied

    def _restore_since_comma(self, end: int) -> None:
        """Give the items between the last comma and ``end`` their own labels back, unless it is an "and" or "or"."""
        mark = next(i for i in range(end - 1, -1, -1) if self.items[i].cue == cues.LIST)
        if self.items[mark].text == ",":
            self.labels[mark:end] = [item.label for item in self.items[mark:end]]


POLARITY_RULES: dict[str, Callable[[_Reading, int], None]] = {
    cues.NEGATES: _Reading.begin_negation,
    cues.NOT: _Reading.begin_negation,
    cues.NEGATES_BEFORE: _Reading.deny_before,
    cues.REMOVED: _Reading.deny_devices_before,
    cues.SPARES: _Reading.spare,
    cues.BREAKS: _Reading.begin_clause,
    cues.LIST: _Reading.read_list_mark,
    cues.ARTICLE: _Reading.read_article,
    cues.VERB: _Reading.read_verb,
    cues.AT: _Reading.read_place,
    cues.OF: _Reading.read_owner,
    cues.WITH: _Reading.end_negation,
}

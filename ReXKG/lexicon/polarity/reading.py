"""The state of a sentence that is read from left to right, and what the rules of polarity do to its labels."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from ReXKG.graph import (
    CONCEPT,
    DEVICES_ABSENT,
    DEVICES_PRESENT,
    DISORDER_ABSENT,
    DISORDER_PRESENT,
    PROCEDURES,
)
from ReXKG.lexicon import cues, roles
from ReXKG.lexicon.items import Item

ABSENT = {DISORDER_PRESENT: DISORDER_ABSENT, DEVICES_PRESENT: DEVICES_ABSENT}
ANY_ABSENT = frozenset(ABSENT.values())
ANY_DEVICE = frozenset({DEVICES_PRESENT, DEVICES_ABSENT})
ANY_FINDING = frozenset({*ABSENT, *ABSENT.values()})
# A negation with only these words after it denies nothing that follows ("no evidence of it", "I do not see any here").
_FILLERS = frozenset(
    {
        cues.FILLS, cues.COUNTS, cues.AT, cues.OF, cues.ARTICLE, cues.PRONOUN, *cues.VERBS, cues.SEEN,
        cues.FITS, cues.SUGGESTS,
    }
)  # fmt: skip
_LONGEST_ANSWER, _NEAR = 9, 12


class Topic:
    """The items that a question, a heading or a purpose names, from ``start`` to ``end - 1``. An answer may follow.

    Attributes:
        is_open: nothing is asserted until it is answered ("is there an effusion?"). A heading asserts ("edema: mild").
        is_heading: a colon follows.
        denies: it asks whether something is gone, so that "yes" denies it.
    """

    __slots__ = ("denies", "end", "is_heading", "is_open", "start")

    def __init__(self, start: int, end: int, is_open: bool, is_heading: bool = False, denies: bool = False) -> None:
        self.start, self.end, self.is_open, self.is_heading, self.denies = start, end, is_open, is_heading, denies


class Outside(NamedTuple):
    """The state before an open bracket at ``start``, which comes back behind it. See `Reading` for the other names."""

    start: int
    negation: str | None
    clause: int
    has_verb: bool
    last_mark: int
    after_list: bool
    topic: Topic | None


class Reading:
    """The state of a sentence. In all methods ``i`` is the position of the item being read.

    A *clause* is what a denial may look back on. A *statement* is a longer part, from a mark like ";" to the next. A
    *scope* is a part that neither asserts nor denies ("whether ...").
    """

    __slots__ = (
        "after_list", "clause", "denied", "doubt", "examines", "has_verb", "heading_to_deny", "heads_list",
        "in_place", "is_unsure", "items", "judged", "labels", "last_mark", "left_out", "list_marks", "named",
        "named_end", "negation", "negation_at", "outside", "repeats", "scope", "scope_comma", "scope_cue",
        "scope_has_verb", "statement", "topic",
    )  # fmt: skip

    def __init__(self, items: Sequence[Item]) -> None:
        self.items = items
        self.labels = [item.label for item in items]
        self.left_out = False  # the sentence names something that it neither asserts nor denies
        self.statement = 0  # where the statement begins
        self.clause = 0  # where the clause begins
        self.named = -1  # where the last clause that named a disorder or device begins
        self.named_end = 0  # where it ends
        self.has_verb = False  # the clause has its verb, and no negation after it
        self.negation: str | None = None  # the cue that denies what follows
        self.negation_at = 0  # where it is
        self.denied = False  # the negation has met what it denies
        self.in_place = False  # a preposition came after the negation
        self.doubt: str | None = None  # the cue that turns a denial right after it ("not", "almost") into its opposite
        self.heads_list = False  # the negation denies a list of bullets ("there is no: ...")
        self.judged: int | None = None  # the finding that "not" does not deny, as it is only judged
        self.is_unsure = False  # "not sure" waits for a denial to leave open
        self.repeats = False  # the negation repeats one before it in a list ("no effusion, *no* edema")
        self.list_marks = 0  # commas, "and" and "or" since the negation
        self.last_mark = 0  # where the last of them is
        self.after_list = False  # no noun since a comma, "and" or "or"
        self.outside: Outside | None = None
        self.scope: int | None = None  # where the scope begins
        self.scope_cue = ""  # the cue that began it
        self.scope_has_verb = False
        self.scope_comma: int | None = None  # the only list mark of the scope, if it is a comma
        self.examines = False  # a verb of examining waits for its "for"
        self.topic: Topic | None = None
        self.heading_to_deny: Topic | None = None  # the heading that a negation right behind it denies

    def new_negation(self, i: int, cue: str) -> None:
        """Deny the entities that follow until a rule ends the negation."""
        self.repeats = self.negation == cue == cues.NEGATES and self.denied and self.after_list
        self.negation, self.negation_at = cue, i
        self.denied = self.in_place = self.after_list = False
        self.list_marks = 0

    def new_clause(self, i: int) -> None:
        """Begin a clause. No negation crosses its beginning in either direction."""
        if self.named == self.clause:
            self.named_end = i
        self.clause = i
        self.negation = self.doubt = None
        self.has_verb = self.examines = self.after_list = False
        if self.topic is not None and not (self.topic.is_open or self.topic.is_heading):
            self.topic = None

    def new_statement(self, i: int) -> None:
        """Begin a statement. An open scope becomes the topic."""
        self.close_scope(i)
        self.new_clause(i)
        if self.topic is not None and not self.topic.is_open:
            self.topic = None
        self.statement = self.last_mark = i
        self.outside, self.is_unsure, self.scope_cue = None, False, ""

    def open_scope(self, i: int) -> None:
        """Leave out the disorders and devices that follow until a rule closes the scope."""
        if self.scope is None or self.scope_cue != cues.OFFERS:
            self.scope_cue = self.items[i].cue or ""
        self.scope = i if self.scope is None else self.scope
        self.scope_has_verb = self.after_list = False
        self.scope_comma = None

    def close_scope(self, i: int) -> None:
        """End a scope, if there is one. What it named is the topic of what follows. If it named nothing, the topic
        before it stays ("is there a mass? I would say *yes*")."""
        if self.scope is not None:
            if self.named_end > self.scope or self.topic is None:
                self.topic = Topic(self.scope, i, is_open=True)
            self.scope = self.negation = None
            self.clause, self.has_verb = i, False

    def deny(self, start: int, end: int, denied_labels: Collection[str]) -> bool:
        """Make the entities from ``start`` to ``end - 1`` that have these labels absent; False if there were none. The
        device that another noun belongs to is not denied ("the tip *of the tube* is not seen")."""
        has_noun = after_owner = any_denied = False
        for i in range(start, end):
            item = self.items[i]
            label = item.label if self.labels[i] is None else self.labels[i]
            if label is None:
                after_owner = after_owner or (has_noun and item.cue == cues.OF)
            elif label in denied_labels and not (after_owner and label in ANY_DEVICE):
                self.labels[i] = ABSENT.get(label, label)
                any_denied = True
            elif label == CONCEPT and item.role == roles.FINDING and DISORDER_PRESENT in denied_labels:
                self.labels[i] = DISORDER_ABSENT
                any_denied = True
            has_noun = has_noun or item.kind is not None
        return any_denied

    def leave_out(self, start: int, end: int) -> None:
        """Leave out the disorders and devices from ``start`` to ``end - 1`` that are not denied."""
        for i in range(start, end):
            if self.labels[i] in ABSENT:
                self.labels[i] = None
                self.left_out = True

    def restore(self, start: int, end: int) -> None:
        """Give the items from ``start`` to ``end - 1`` their own labels back."""
        self.labels[start:end] = [item.label for item in self.items[start:end]]

    def is_bare_negation(self, i: int) -> bool:
        """True if the words since the negation name nothing that it could deny."""
        if self.negation is None or self.denied or i - self.negation_at > _LONGEST_ANSWER:
            return False
        if self.negation not in (cues.NEGATES, cues.NOT):
            return False
        if self.topic is not None and i == self.negation_at + 2 and self._says_nothing(i - 1):
            return True
        return all(
            item.cue in _FILLERS if item.label is None else item.label == PROCEDURES or item.cue in _FILLERS
            for item in self.items[self.negation_at + 1 : i]
        )

    def names(self, i: int) -> bool:
        """True if the clause has named a disorder or device."""
        return any(label in ANY_FINDING for label in self.labels[self.clause : i])

    def _says_nothing(self, i: int) -> bool:
        """True for a word that is neither a noun nor a cue ("not *convincingly*")."""
        return self.items[i].kind is None and self.items[i].cue is None

    def answer_no(self, i: int) -> None:
        """Deny the topic, or else what the clause has said so far ("edema: no")."""
        topic, self.topic = self.topic, None
        is_denied = topic is not None and self.answer(topic, is_yes=False)
        start = self.clause
        if self.negation == cues.NOT and self.items[self.last_mark].text == ",":
            named = any(label in ABSENT for label in self.labels[self.last_mark : self.negation_at])
            start = max(start, self.last_mark) if named else start
        is_denied = is_denied or self.deny(start, self.negation_at, ANY_FINDING)
        if not is_denied and self.negation == cues.NOT:
            self.deny_subject_before(i)
        elif not is_denied and self.negation_at == i - 1 and (i == len(self.items) or self.items[i].cue == cues.ENDS):
            self.deny_subject_before(self.negation_at)
        self.negation, self.clause = None, i

    def answer(self, topic: Topic, is_yes: bool) -> bool:
        """Assert or deny what a topic names; False if it has nothing to deny."""
        if is_yes != topic.denies:
            self.restore(topic.start, topic.end)
            return True
        return self.deny(topic.start, topic.end, ANY_FINDING)

    def assert_subject_before(self, i: int) -> None:
        """Assert what the last clause named, if the words since then name nothing else."""
        is_near = self.named >= 0 and i - self.named_end <= _NEAR
        if is_near and not any(item.kind is not None for item in self.items[self.named_end : i]):
            self.restore(self.named, self.named_end)

    def deny_subject_before(self, i: int) -> bool:
        """Deny what the last clause named, if no other has come between ("there was edema, but it has *resolved*"). A
        new statement needs a pronoun for it, unless it says nothing else."""
        start, end = self.named, self.named_end
        if start < 0 or start == self.clause or i - end > _NEAR:
            return False
        if any(item.kind is not None and item.kind != PROCEDURES for item in self.items[end:i]):
            return False
        says_more = self.clause == self.statement and i > self.clause + 1
        if says_more and not any(item.cue == cues.PRONOUN for item in self.items[self.clause : i]):
            return False
        self.named = -1
        return self.deny(start, end, ANY_FINDING)

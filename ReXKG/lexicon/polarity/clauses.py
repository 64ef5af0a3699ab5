"""Rules for where a sentence's clauses, statements and scopes begin and end."""

from __future__ import annotations

from ReXKG.graph import ANATOMY
from ReXKG.lexicon import cues
from ReXKG.lexicon.polarity import reach
from ReXKG.lexicon.polarity.reading import Reading

_IN_PLACE_OF = frozenset({"rather than", "instead of", "as opposed to"})
_PART_ENDS = (cues.ENDS, cues.LIST, cues.BREAKS)
_MEMBER = (cues.LIST, cues.OPENS, cues.AT, cues.OF, cues.FITS)
_NEAR, _FEW = 8, 3
HELPING = frozenset({"do", "does", "did", "can", "could", "would"})
_SETTINGS = frozenset({"in", "for", "between"})
_SHORT_SETTING = 5


def waits(reading: Reading) -> bool:
    """True if a "not" or a doubt of what follows has denied nothing yet and begins no list."""
    return reading.negation in (cues.NOT, cues.LACKS) and not (reading.denied or reading.list_marks)


def ends_at(reading: Reading, i: int) -> bool:
    """True if a part of the sentence ends at ``i``."""
    return i >= len(reading.items) or reading.items[i].cue in _PART_ENDS


def ends_in_degree(reading: Reading, i: int) -> bool:
    """True if a part of the sentence ends in the one word at ``i``, a size or the like ("is no longer *large*", "only a
    *trace*")."""
    return i < len(reading.items) and reading.items[i].cue == cues.OPENS and ends_at(reading, i + 1)


def begin_clause(reading: Reading, i: int) -> None:
    """Begin a clause ("but", "there"). No negation crosses its beginning in either direction, except a "not" that has
    denied nothing yet ("I do *not* think that *there is* an effusion", "*nothing* suggests that *there is* one")."""
    if reading.items[i].text.startswith("there"):
        if reading.scope is not None and not reading.after_list:
            return
        goes_on = reading.items[i - 1].text == "that" or reading.items[i - 1].cue == cues.SUGGESTS
        if waits(reading) or (goes_on and reading.is_bare_negation(i)):
            return
    elif reading.items[i].text == "apart from" and reading.scope is not None:
        return
    else:
        reading.is_unsure = False
        if reading.is_bare_negation(i):
            reading.answer_no(i)
    reading.close_scope(i)
    reading.new_clause(i)


def begin_statement(reading: Reading, i: int) -> None:
    """Begin a statement (";", a new line, the next bullet). Options go on over bullets, and so does the
    negation of all ("not seen: ...")."""
    is_bullet = reading.items[i].text == "•"
    if reading.scope is not None and reading.scope_cue == cues.OFFERS and (is_bullet or _is_member(reading, i + 1)):
        return
    begins_list = is_bullet and reading.topic is None and reading.is_bare_negation(i) and not reading.names(i)
    goes_on = is_bullet and (reading.heads_list or begins_list)
    if not goes_on and reading.is_bare_negation(i):
        reading.answer_no(i)
    elif _answers_yes(reading, i):
        reading.answer(reading.topic, is_yes=True)
        reading.topic = None
    reading.new_statement(i)
    reading.heads_list = goes_on
    if goes_on:
        reading.new_negation(i, cues.NEGATES)


def _is_member(reading: Reading, i: int) -> bool:
    """True if the part at ``i`` is only named, as an option is."""
    for item in reading.items[i : i + _NEAR]:
        if item.cue == cues.ENDS:
            return True
        if item.cue is not None and item.cue not in _MEMBER:
            return False
    return len(reading.items) <= i + _NEAR


def begin_line(reading: Reading, i: int) -> None:
    """Begin a statement at a line in lower case, if the line before can end there: not after a modifier, and not before
    a verb or preposition."""
    before, after = reading.items[i - 1], reading.items[min(i + 1, len(reading.items) - 1)]
    may_end = (before.kind is not None or before.cue is not None) and before.kind != ANATOMY
    if may_end and (after.label is not None or after.cue in (cues.NEGATES, cues.NOT)):
        begin_statement(reading, i)


def leave_out_setting(reading: Reading, i: int) -> None:
    """Leave out the disorders of a general setting or a choice, at the comma behind it ("*in edema,* the vessels are
    blurred", "*between edema and pneumonia,* I choose edema")."""
    start = reading.statement
    start += reading.items[start].cue == cues.ENDS
    if i - start <= _SHORT_SETTING and reading.items[start].text in _SETTINGS:
        if any(item.cue in (cues.ARTICLE, cues.COLON) for item in reading.items[start:i]):
            return
        reading.leave_out(start, i)
        reading.clause = i


def read_list_mark(reading: Reading, i: int) -> None:
    """Let a negation reach beyond a comma, "and" or "or". After a verb the list mark begins a clause."""
    text = reading.items[i].text
    if text == "and" and reading.after_list and reading.last_mark == i - 1:
        return
    if reading.scope is not None:
        if text == "," and reading.scope_has_verb and reading.scope_cue != cues.OFFERS:
            reading.close_scope(i)
        else:
            reading.scope_comma = i if text == "," and not reading.after_list else None
    elif reading.is_bare_negation(i):
        reading.answer_no(i)
    elif _answers_yes(reading, i):
        reading.answer(reading.topic, is_yes=True)
        reading.topic = None
    elif text == "," and not reading.has_verb:
        leave_out_setting(reading, i)
    if reading.has_verb and reading.scope is None:
        reading.new_clause(i)
    if text != "or":
        reading.doubt = None
        reading.is_unsure = False
    reading.after_list, reading.last_mark = True, i
    reading.list_marks += 1


def _answers_yes(reading: Reading, i: int) -> bool:
    """True if a verb right behind a question answers it ("an effusion? We *do*, on the left", "*It is*")."""
    topic = reading.topic
    is_near = topic is not None and topic.is_open and topic.end < i - 1 <= topic.end + _FEW
    last = reading.items[i - 1]
    return is_near and (last.text in HELPING or last.cue in cues.VERBS) and not reading.names(i)


def read_article(reading: Reading, i: int) -> None:
    """End a negation at a known thing that is named after a list mark ("no effusion, and *the* heart ..."). A scope
    ends there after a comma ("if it is large, *the* ...")."""
    if reading.heads_list:
        return
    if reading.denied and reading.negation_at == reading.clause and reading.items[reading.clause].text == "without":
        reading.negation = None
    if reading.after_list:
        if reading.scope is None:
            reading.negation = None
        elif reading.items[reading.last_mark].text == ",":
            reading.close_scope(i)


def read_pronoun(reading: Reading, i: int) -> None:
    """End a negation or a scope at the subject of the next clause ("to see if it is large, *I* look ...", "rather than
    edema *I* see ...")."""
    is_after_colon = reading.scope_cue == cues.OFFERS and reading.items[i - 1].cue == cues.COLON
    if is_after_colon or (reading.after_list and reading.items[reading.last_mark].text != "or"):
        reading.close_scope(i)
        reading.negation = None
    elif reading.negation is not None and reading.denied and reading.items[reading.negation_at].text in _IN_PLACE_OF:
        reading.negation = None
    reading.after_list = False


def read_shows(reading: Reading, i: int) -> None:
    """End a negation at its only comma before a verb of showing ("no hernia, the *spine shows* scoliosis")."""
    if reading.denied:
        reach.spare_since_comma(reading, i)


def read_verb(reading: Reading, i: int) -> None:
    """End a negation at a verb ("no effusion *is* seen"). The words between a single comma and the verb are a clause of
    their own and are not denied ("no pneumothorax, *mild edema is* present"). A "not" that has denied nothing yet goes
    on ("does *not appear* to be enlarged", "*no signs are* there of edema")."""
    if reading.scope is not None:
        if reading.items[i].text == "which":
            return
        comma = reading.scope_comma
        reading.scope_has_verb = True
        if comma is None or reading.scope_cue in (cues.OFFERS, cues.GENERALIZES):
            return
        reading.close_scope(comma)
        reading.restore(comma, i)
    elif waits(reading) or (reading.is_bare_negation(i) and (reading.topic or i > reading.negation_at + 1)):
        return
    else:
        reach.spare_since_comma(reading, i)
        reach.spare_known_subject(reading, i)
        if reading.is_unsure and reading.negation is not None:
            return
    reading.negation, reading.has_verb = None, True

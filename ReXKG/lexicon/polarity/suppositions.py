"""Rules for what a sentence neither asserts nor denies.

A *scope* begins at "whether", "if", "evaluate for", "would" and the like and leaves out the disorders and devices up to
the main clause. It may then be answered (`topics.py`).
"""

from __future__ import annotations

from ReXKG.lexicon import cues
from ReXKG.lexicon.items import GAP
from ReXKG.lexicon.polarity.reading import ABSENT, Reading

_NEAR = 8
_SUGGESTING = frozenset({"suggests", "indicates", "points to", "represents", "reflects", "implies"})
_CAUSING = frozenset({"due to", "secondary to", "related to", "attributable to", "attributed to"})
_SPEAKERS = frozenset({"i", "we"})
_INVERTED = frozenset({"should", "were this", "were that", "had it been", "had this been", "had that been"})
_TURNED_ROUND = frozenset({"is there", "are there", "was there", "do we"})
_LIKENING = frozenset({"can look", "can mimic", "mimic", "mimics", "mimicking", "simulates"})
_INCLUDING = frozenset({"include", "includes"})


def seek(reading: Reading, i: int) -> None:
    """Open a scope at a task ("*evaluate for* pneumothorax", "the *question is* about edema"). After "not" an
    infinitive is no task ("not able *to identify* a nodule"), and right behind "not" no verb asks ("in no way *does
    this* look like edema"), nor does it after another negation ("nowhere *is there* a fracture")."""
    text = reading.items[i].text
    is_part = text.startswith("to ") or (reading.negation_at == i - 1 and not text.endswith("between"))
    if reading.doubt == cues.NOT and not reading.denied and is_part:
        return
    if text in _TURNED_ROUND and reading.negation in (cues.NOT, cues.NEGATES) and not reading.denied:
        return
    reading.negation = reading.doubt = None
    reading.open_scope(i)


def seek_before(reading: Reading, i: int) -> None:
    """Leave out what the clause named before a task ("pneumonia *must be excluded*")."""
    reading.leave_out(reading.clause, i)


def examine(reading: Reading, i: int) -> None:
    """Wait for the "for" of a task ("*inspect* the apices for pneumothorax")."""
    reading.examines = True


def ask_if(reading: Reading, i: int) -> None:
    """Open a scope at "whether" or "if". After a doubt it is uncertain, and what may be there counts as present ("it is
    *not clear whether* there is pneumonia")."""
    is_unsure = reading.doubt is not None or reading.negation == cues.NEGATES_BEFORE
    if is_unsure and not reading.denied and reading.scope is None:
        reading.negation = reading.doubt = None
    elif reading.scope is None and (reading.items[i].text not in _INVERTED or i == reading.clause):
        seek(reading, i)


def suppose(reading: Reading, i: int) -> None:
    """Leave out what the clause says before and after "would" ("a pneumothorax *would* show a line"). Behind a
    condition it is never taken back ("if there were blunting, I *would* call it an effusion")."""
    if reading.negation == cues.LACKS and reading.items[reading.negation_at].text.endswith("than"):
        return
    if reading.scope is None:
        is_conditional = reading.scope_cue == cues.IF
        if not is_conditional and _is_opinion(reading, i):
            return
        reading.leave_out(reading.clause, i)
        reading.open_scope(i)
        if is_conditional:
            reading.scope_cue = cues.IF
    else:
        reading.scope_comma = None


def _is_opinion(reading: Reading, i: int) -> bool:
    """True for the "would" of a speaker before a verb that steers nothing ("I *would* settle for edema", not "I *would*
    see")."""
    items = reading.items
    return 0 < i < len(items) - 1 and items[i - 1].text in _SPEAKERS and items[i + 1] is GAP


def read_judgment(reading: Reading, i: int) -> None:
    """Take a "would" back that belongs to a speaker or to what is there ("I *would call* this edema", "*the* opacity
    would suggest pneumonia", not "blunting would suggest an effusion")."""
    if i - reading.statement in (1, 2) and reading.items[i - 1].text == "to" and reading.scope is None:
        seek(reading, i)
        return
    if reading.negation == cues.NOT:
        reading.judged = _judged(reading, i)
    if reading.scope is None:
        return
    known = (cues.ARTICLE, cues.BREAKS, cues.PRONOUN)
    if reading.negation is not None or _names_known(reading, i, known) or not _names_disorder(reading, reading.scope):
        _take_back(reading, i)


def _judged(reading: Reading, i: int) -> int | None:
    """The place of the finding that is judged to be another ("not call *the opacity* a mass"); None without two."""
    items = reading.items[i + 1 : i + _NEAR]
    if not items or items[0].cue != cues.ARTICLE:
        return None
    named = [place for place, item in enumerate(items, i + 1) if item.label in ABSENT]
    return named[0] if len(named) > 1 and not any(item.cue == cues.LIST for item in items) else None


def judge_clause(reading: Reading, i: int) -> None:
    """Take a "would" back before a denial that belongs to a speaker or to what is known ("I *would not* read this as
    edema", "that *would be wrong*")."""
    scope = reading.scope
    if scope is None or reading.scope_cue != cues.SUPPOSES:
        return
    known = any(
        item.cue in (cues.ARTICLE, cues.PRONOUN, cues.NOT) or item.text == "that" or item.text.startswith("there")
        for item in reading.items[reading.clause : scope]
    )
    if known and not _names_disorder(reading, scope):
        _take_back(reading, i)


def _take_back(reading: Reading, i: int) -> None:
    """Close the scope of a "would" that has named nothing yet, as if it had not been."""
    scope = reading.scope
    if scope is None or reading.scope_cue != cues.SUPPOSES or i - scope > _NEAR:
        return
    if not any(item.kind is not None for item in reading.items[scope:i]):
        for k in range(reading.clause, i):
            if reading.labels[k] is None:
                reading.labels[k] = reading.items[k].label
        reading.scope = None


def generalize(reading: Reading, i: int) -> None:
    """Leave out a general statement ("pneumonia *typically* shows an opacity", "*usually*, ..."). It names a disorder
    and nothing known ("the opacity *usually* ..."). Signs of a disorder that include others are general too, and
    so is what something "*can look* like"."""
    items = reading.items
    if items[i].text in _INCLUDING and not any(
        item.text in ("of", "in") for item in items[max(reading.clause, i - _NEAR) : i]
    ):
        return
    opens = i == reading.statement and i + 1 < len(items) and items[i + 1].text == ","
    names_known = _names_known(reading, i, (cues.ARTICLE, cues.BREAKS))
    if opens or (_names_disorder(reading, i) and not names_known):
        suppose(reading, i)
    elif items[i].text in _LIKENING and reading.scope is None:
        reading.open_scope(i)


def suggest(reading: Reading, i: int) -> None:
    """Take a "would" back (`read_judgment`). What a lack suggests is not lacking ("the absence of markings *suggests* a
    pneumothorax"), nor is the cause of what was not done ("not seen in full *due to* an effusion")."""
    if reading.scope is not None:
        read_judgment(reading, i)
        return
    text = reading.items[i].text
    is_cause = reading.negation == cues.NOT and text in _CAUSING and i > reading.negation_at + 2
    is_lacking = reading.negation == cues.LACKS and text in _SUGGESTING and not reading.list_marks
    if is_lacking or (is_cause and not reading.denied):
        reading.negation = None


def _names_disorder(reading: Reading, end: int) -> bool:
    """True if the last items of the clause before ``end`` name a disorder or device."""
    return any(item.label in ABSENT for item in reading.items[max(reading.clause, end - _NEAR) : end])


def _names_known(reading: Reading, end: int, known: tuple[str, ...]) -> bool:
    """True if the last items of the clause before ``end`` have one of the cues or a relative pronoun."""
    items = reading.items[max(reading.clause, end - _NEAR) : end]
    return any(item.cue in known or item.text == "which" for item in items)


def rule_out(reading: Reading, i: int) -> None:
    """Deny what follows if the clause has a subject for the verb ("the sharp angles *exclude* an effusion"). Without
    one, or with "to", it is a task ("*exclude* pneumonia"). After a doubt nothing is denied ("cannot *exclude*
    pneumonia")."""
    if reading.scope is not None:
        if reading.doubt == cues.NOT or reading.items[reading.scope - 1].text in _SPEAKERS:
            _take_back(reading, i)
        if reading.scope is not None:
            return
    if reading.doubt is not None or (reading.negation == cues.LACKS and not reading.denied):
        reading.negation = reading.doubt = None
    elif not reading.items[i].text.startswith("to ") and _has_subject(reading, i):
        reading.new_negation(i, cues.RULES_OUT)
    else:
        seek(reading, i)


def rule_apart(reading: Reading, i: int) -> None:
    """Deny what stands between "rules" and "out" ("this *rules* pneumonia out", see `rule_out`)."""
    if not any(item.text == "out" for item in reading.items[i + 1 : i + _NEAR]):
        return
    is_said = reading.items[i].text in ("rules", "ruled") or reading.items[i - 1].text in ("can", "did")
    if is_said and reading.doubt is None and reading.scope is None:
        reading.new_negation(i, cues.RULES_OUT)
    else:
        rule_out(reading, i)


def _has_subject(reading: Reading, i: int) -> bool:
    """True if the clause so far names several things or a speaker, as the verb "exclude" needs them."""
    return any(
        item.cue == cues.PRONOUN or (item.kind is not None and item.text.endswith("s"))
        for item in reading.items[max(reading.clause, i - _NEAR) : i]
    )

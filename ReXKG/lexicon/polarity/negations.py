"""Rules for what is denied: negations, denials that look back, doubts, and what ends a negation."""

from __future__ import annotations

from ReXKG.graph import DISORDER_ABSENT
from ReXKG.lexicon import cues
from ReXKG.lexicon.polarity import clauses, reach, suppositions, topics
from ReXKG.lexicon.polarity.reading import ABSENT, ANY_DEVICE, ANY_FINDING, Reading

_NEAR, _SOON, _FEW = 12, 6, 3
_SO = frozenset({"so", "therefore", "thus", "hence"})
_ADJECTIVES = frozenset({"worsening", "changed", "smaller", "larger", "bigger", "clearing", "enlargement"})
_SCARCELY = ("hardly", "scarcely", "barely")
_IN_VAIN = ("nothing", "empty", "none")
_ONLY = ("only", "just", "merely", "simply")
_OUT = ("is out", "are out")
_COMPARING = (" than", " as")
_TAKEN_BACK = (cues.NOT, cues.LACKS)
_DENYING = (cues.NOT, cues.NEGATES, cues.NEGATES_BEFORE)
_EARLIER = frozenset({"prior", "previous", "previously", "earlier", "before"})


def begin_negation(reading: Reading, i: int) -> None:
    """Deny the entities that follow ("no", "without") until another rule ends the negation. Right behind a heading it
    denies the heading too ("pneumothorax: *no* pleural line"). A "not" that waits takes it back ("I can *not* say that
    there is *no* edema"), and so does a lack ("it is *wrong to* say that there is *no* edema").
    Things that are counted are there ("*none of* the nodules is calcified")."""
    if reading.is_unsure:
        reading.is_unsure = False
        return
    if reading.items[i].text == "neither" and reading.scope is not None and reading.scope_cue == cues.OFFERS:
        return
    suppositions.judge_clause(reading, i)
    if reading.scope is not None and reading.after_list:
        reading.close_scope(i)
    cue = reading.items[i].cue or ""
    repeats = cue == cues.NEGATES or (cue == cues.NOT and reading.items[i - 1].cue in (*cues.VERBS, cues.NOT))
    goes_on = cue == cues.NOT and reading.items[i - 1].text == "and" and reading.list_marks == 1 and not reading.denied
    if (goes_on or (repeats and clauses.waits(reading))) and (reading.doubt or reading.negation) in _TAKEN_BACK:
        reading.negation = reading.doubt = None
        return
    reading.new_negation(i, cue)
    reading.has_verb = False
    reading.doubt = cue
    if reading.items[i].text == "none of" and any(item.cue == cues.ARTICLE for item in reading.items[i + 1 : i + 2]):
        reading.judged = i + 2
    topic = reading.topic
    reading.heading_to_deny = topic if topic is not None and topic.is_heading and topic.end == i - 1 else None


def begin_lack(reading: Reading, i: int) -> None:
    """Deny what follows ("free of", "argues against"). A doubt before it takes it back ("*not free of* edema"), and
    so does a judgment ("*wrong to* say the lungs are free of edema")."""
    is_judged = reading.negation == cues.LACKS and reading.items[reading.negation_at].text.endswith((" to", " that"))
    if (reading.doubt is not None or is_judged) and not reading.denied:
        suppositions.judge_clause(reading, i)
        reading.negation = reading.doubt = None
    else:
        begin_negation(reading, i)
        reading.doubt = None


def end_negation(reading: Reading, i: int) -> None:
    """End a negation before the company of what it denies ("no effusion *with* the tube"), but not right behind it."""
    if i != reading.negation_at + 1 and not clauses.waits(reading):
        reading.negation = None


def turn(reading: Reading, i: int) -> None:
    """End a negation that has met what it denies before or after what there is instead ("no pneumonia, *only*
    atelectasis", "no pneumonia, atelectasis *instead*")."""
    if reading.items[i].text == "as" and reading.items[reading.negation_at].text != "not so much":
        return
    if reading.denied:
        reach.spare_since_comma(reading, i)
        reading.negation = None
    elif reading.negation == cues.NOT and reading.items[i].text in _ONLY:
        reading.negation = None


def open_finding(reading: Reading, i: int) -> None:
    """End a negation before the size or side of another finding ("no pneumothorax, *small* effusion"), unless an
    "or" follows in the list ("no pneumothorax, large effusion *or* edema"), or at a size behind it ("no pneumothorax,
    effusion *small*")."""
    if not (reading.negation and reading.denied) or reading.heads_list:
        return
    if not reading.after_list:
        if reading.labels[i - 1] == DISORDER_ABSENT and clauses.ends_at(reading, i + 1):
            reach.spare_since_comma(reading, i)
        return
    if reading.items[reading.last_mark].text != "or" and not reach.list_goes_on(reading, i):
        reading.negation = None


def read_seen(reading: Reading, i: int) -> None:
    """Deny the clause so far if a "not" waits for its verb ("is *not* clearly *seen*"). Right behind a question it
    affirms ("an effusion? *Seen* on the left"). Else it is a verb, or an entity that describes its noun ("the
    *visualized* lungs")."""
    topic = reading.topic
    if reading.doubt == cues.NOT and not reading.denied:
        reading.doubt = None
        deny_before(reading, i)
    elif topic is not None and topic.is_open and (i == topic.end + 1 or _concludes(reading, i)):
        topics.affirm(reading, i)
    elif reading.items[i].label is None:
        clauses.read_verb(reading, i)
    elif clauses.ends_at(reading, i + 1):
        reach.spare_since_comma(reading, i)


def _concludes(reading: Reading, i: int) -> bool:
    """True if the part of the sentence ends in "so" and the word at ``i`` ("..., *so present*")."""
    return reading.items[i - 1].text in _SO and clauses.ends_at(reading, i + 1)


def read_place(reading: Reading, i: int) -> None:
    """Let a negation reach no device after a preposition ("no kink *in* the catheter"). After a verb of preferring,
    what follows "over" or "to" is denied ("I prefer edema *over* pneumonia"). What there is "beyond" something is
    there."""
    reading.in_place = True
    text = reading.items[i].text
    if text == "beyond" and reading.denied:
        reading.negation = None
    if text in ("over", "to") and _names_disorder(reading, i):
        for item in reading.items[max(reading.clause, i - _NEAR) : i]:
            if item.cue == cues.PREFERS or item.text in ("favor", "go with"):
                reading.new_negation(i, cues.LACKS)
                break


def read_owner(reading: Reading, i: int) -> None:
    """Let a negation reach no device that a noun belongs to ("no fracture *of* the lead"). The "for" of a verb of
    examining opens a scope ("inspect the apices *for* pneumothorax"). What something is too sharp "*for*" is
    denied."""
    if reading.items[i].text == "for" and any(item.text == "too" for item in reading.items[max(0, i - _FEW) : i]):
        reading.new_negation(i, cues.LACKS)
        reading.in_place = True
        return
    reading.in_place = reading.in_place or reading.denied or reading.items[i - 1].kind is not None
    if reading.examines and reading.items[i].text == "for":
        suppositions.seek(reading, i)


def spare(reading: Reading, i: int) -> None:
    """End a negation at the change that it denies: the finding is spared ("no *change* in the opacity", "neither the
    effusion nor the edema has *changed*"). An adjective before an entity spares nothing ("no *worsening* opacity"), nor
    does the first of two ("no *change* or opacity")."""
    following = reading.items[i + 1] if i + 1 < len(reading.items) else None
    if reading.items[i - 1].cue in cues.VERBS and reading.items[reading.clause].text == "neither":
        reading.restore(reading.clause, i)
        return
    denies_other = reading.denied and reading.labels[i] not in ABSENT.values()
    is_adjective = following is not None and following.label is not None and reading.items[i].text in _ADJECTIVES
    if not (denies_other or is_adjective or (following and following.text == "or")):
        reading.negation = None


def doubt(reading: Reading, i: int) -> None:
    """Wait for a denial to turn into its opposite ("*almost* resolved", "*difficult* to exclude"). Right behind a
    question it denies ("an effusion? *Hardly*"), and so does "*hardly* pneumonia"."""
    topic = reading.topic
    is_answer = topic is not None and topic.is_open and i == topic.end + 1 and clauses.ends_at(reading, i + 1)
    if is_answer and reading.items[i].text in _SCARCELY:
        reading.answer(topic, is_yes=False)
    elif reading.items[i].text == "hardly" and any(item.label in ABSENT for item in reading.items[i + 1 : i + 2]):
        reading.new_negation(i, cues.NOT)
        return
    reading.doubt = cues.DOUBTS


def leave_unsure(reading: Reading, i: int) -> None:
    """End a "not" that denies the certainty only ("I am not *sure* there is an effusion"), and leave a denial open
    ("not *sure* it has resolved"). To *tell* edema from pneumonia is a task."""
    if (reading.doubt == cues.NOT and not reading.denied) or reading.items[i].text.startswith("not "):
        reading.negation = None
        reading.is_unsure = True
    elif reading.items[i].text == "tell" and reading.doubt is None and _names_disorder(reading, i):
        suppositions.seek(reading, i)


def deny_before(reading: Reading, i: int) -> None:
    """Deny the entities of the clause so far ("... has *resolved*", "... is *not seen*"), or else the topic, or else
    those that follow ("*resolved* edema"), or else those of the clause before ("there was edema, but it has
    *resolved*"). What was not seen on an earlier image is not denied."""
    if reading.scope is not None:
        is_apart = reading.after_list and reading.items[reading.last_mark].text != "or"
        if not is_apart and not reading.items[i].text.endswith(_IN_VAIN):
            return
        reading.close_scope(i)
    if (reading.doubt is not None and not reading.denied) or _is_of_part(reading, i):
        reading.negation = reading.doubt = None
    elif reading.is_unsure:
        reading.is_unsure = False
    elif reach.is_denied_by_judgment(reading):
        reading.restore(reading.negation_at, i)
    elif reading.items[i].text.startswith("no longer") and clauses.ends_in_degree(reading, i + 1):
        reading.has_verb = True
    elif not _is_of_the_past(reading, i):
        _deny_named(reading, i)
    reading.clause = i


def persist(reading: Reading, i: int) -> None:
    """Assert what the last clause said to be gone, if this one has no subject ("the effusion is gone on the right, but
    *persists* on the left"). It is a verb besides."""
    since = reading.items[max(reading.named_end, i - _NEAR) : i]
    is_gone = any(item.cue == cues.NEGATES_BEFORE for item in since)
    if is_gone and reading.scope is None and reading.negation is None and since[-1].cue not in _DENYING:
        reading.assert_subject_before(i)
    clauses.read_verb(reading, i)


def _deny_named(reading: Reading, i: int) -> None:
    """Deny what `deny_before` says. A heading right before is denied alone ("effusion: yes, edema: *absent*")."""
    topic = reading.topic
    if topic is not None and topic.is_heading and i == topic.end + 1 and reading.answer(topic, is_yes=False):
        reading.topic = None
    elif reading.deny(reading.clause, i, ANY_FINDING):
        return
    elif topic is not None and reading.deny(topic.start, topic.end, ANY_FINDING):
        reading.topic = None
    elif reading.items[i].text.endswith(_COMPARING):
        reading.deny_subject_before(i)
    elif _names_disorder(reading, i) or not reading.deny_subject_before(i):
        reading.new_negation(i, cues.NEGATES_BEFORE)
        reading.has_verb = False


def _is_of_the_past(reading: Reading, i: int) -> bool:
    """True if a word for an earlier image follows or is right before ("was not seen on the *prior* film")."""
    if i and reading.items[i - 1].text in _EARLIER:
        return True
    for item in reading.items[i + 1 : i + _SOON]:
        if item.cue in (cues.BREAKS, cues.ENDS, cues.LIST):
            return False
        if item.text in _EARLIER:
            return True
    return False


def _is_of_part(reading: Reading, i: int) -> bool:
    """True if the clause is of a part of something ("*most of* the edema has disappeared")."""
    clause = reading.items[max(reading.clause, i - _NEAR) : i]
    return any(item.cue == cues.DOUBTS and item.text.endswith(" of") for item in clause)


def _names_disorder(reading: Reading, i: int) -> bool:
    """True if a disorder or device follows soon in the clause."""
    for item in reading.items[i + 1 : i + _SOON]:
        if item.cue in (cues.BREAKS, cues.ENDS, cues.LIST):
            break
        if item.label in ABSENT:
            return True
    return False


def deny_devices_before(reading: Reading, i: int) -> None:
    """Deny the devices of the clause so far ("the tube has been *removed*"), and a hypothesis that "*is out*". The
    noun "removal" is not a cue: annotators of real reports call the tube of "removal of the tube" present about twice
    as often as absent."""
    if reading.doubt is not None:
        reading.negation = reading.doubt = None
    elif reading.scope is None:
        topic = reading.topic
        is_out = reading.items[i].text in _OUT and clauses.ends_at(reading, i + 1)
        is_denied = reading.deny(reading.clause, i, ANY_FINDING if is_out else ANY_DEVICE)
        if not is_denied and topic is not None and i == topic.end + 1:
            reading.deny(topic.start, topic.end, ANY_DEVICE)
        elif not is_denied:
            reading.deny_subject_before(i)
        reading.clause = i

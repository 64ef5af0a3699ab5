"""Rules for questions, headings and brackets, and for the answers to them.

A question leaves out all that it names. It is then the topic: "yes" brings it back, a bare "no", "none" or "I do not
see one" denies it. So is a scope that a mark ended (`suppositions.py`). A heading ("edema: absent") is a topic that
asserts until it is denied.
"""

from __future__ import annotations

from ReXKG.graph import ANATOMY, CONCEPT, PROCEDURES
from ReXKG.lexicon import cues, roles
from ReXKG.lexicon.polarity import clauses, reach
from ReXKG.lexicon.polarity.reading import ABSENT, ANY_ABSENT, Outside, Reading, Topic

_NEAR, _FAR = 8, 14
_SILENT = frozenset({None, ANATOMY, PROCEDURES})
_COUNTS = frozenset({"one", "two", "three", "four", "both", "some", "several", "multiple", "a few"})
_ONES = ("one", "it", "them", "some", "several", "both", "two")
_ENDING = frozenset({"resolve", "disappear", "vanish", "go away", "exclude", "rule out"})
_OF_KIND = ("what would", "what does", "what do", "how ", "expect")
_FREE = frozenset({"free of", "free from", "clear of", "negative for", "devoid of"})
_MAYBE = frozenset({"possible", "conceivable", "probable", "likely", "plausible"})
_CLOSING = frozenset({*_COUNTS, *_MAYBE, *clauses.HELPING})
_YES = frozenset({"yes", "yep", "yeah", "yup", "✓", "✔", "✅"})
_SAYS_MORE = frozenset({cues.NOT, cues.NEGATES, cues.NEGATES_BEFORE, *cues.VERBS, cues.ASKS, cues.SHOWS, cues.SEEN})
_TELLING = (cues.OPENS, cues.SUGGESTS, cues.TURNS, cues.AT)
_SAID_OF = (roles.FINDING, roles.STATE)


def ask(reading: Reading, i: int) -> None:
    """Leave out all that a question names, until it is answered. A question about a kind of finding ("*what would* an
    effusion look like?") has no answer that asserts."""
    labels, start = reading.labels, reading.statement
    if i and i - start <= 1 and reading.topic is not None:
        return
    asked = reading.items[start:i]
    denies = any(item.cue == cues.NEGATES_BEFORE for item in asked[2:]) and not ANY_ABSENT.isdisjoint(labels[start:i])
    denies = denies or any(item.text in _ENDING or item.text in _FREE for item in asked)
    labels[start:i] = [None] * (i - start)
    reading.left_out = True
    reading.scope = None
    reading.new_statement(i)
    if any(item.text.startswith(_OF_KIND) for item in asked) or reading.items[start].text == "|":
        reading.topic = None
        return
    if reading.topic is None or _names_finding(reading, start, i):
        reading.topic = Topic(start, i, is_open=True, denies=denies)
    if _is_said_in_part(reading, i + 1):
        affirm(reading, i + 1)


def _names_finding(reading: Reading, start: int, end: int) -> bool:
    """True if an item from ``start`` to ``end - 1`` is a disorder, a device or a state."""
    return any(item.label in ABSENT or item.role in _SAID_OF for item in reading.items[start:end])


def _is_said_in_part(reading: Reading, i: int) -> bool:
    """True if a fragment that begins at ``i`` tells how or where that is which was asked ("an effusion? *Small, on the
    left*", "*probably*")."""
    if i < len(reading.items) and reading.items[i].text in _COUNTS:
        return clauses.ends_at(reading, i + 1) or reading.items[i + 1].cue == cues.AT
    if i + 1 < len(reading.items) and reading.items[i].cue is None and reading.items[i].label == CONCEPT:
        i += 1
    if i >= len(reading.items) or reading.items[i].cue not in _TELLING:
        return False
    is_place = reading.items[i].cue == cues.AT
    for place in range(i, min(i + _NEAR, len(reading.items))):
        item = reading.items[place]
        if item.cue in (cues.ENDS, cues.LIST, cues.BREAKS):
            return not is_place or item.cue == cues.ENDS
        if item.label in ABSENT or item.cue in _SAYS_MORE:
            return False
        if item.text in ("a", "an") and not clauses.ends_in_degree(reading, place + 1):
            return False
    return True


def affirm(reading: Reading, i: int) -> None:
    """Bring an open topic back ("is there an effusion? *Yes*"), or deny it behind a negation ("I do not *see one*").
    All but "yes" answer only right behind the question or at the end ("... *It does*", not "*it does* show edema")."""
    if reading.is_bare_negation(i):
        reading.answer_no(i)
        return
    items, topic = reading.items, reading.topic
    following = items[i + 1] if i + 1 < len(items) else None
    if following and (following.cue == cues.NOT or (following.label is not None and items[i].text.endswith(_ONES))):
        return
    is_last = following is None or following.cue == cues.ENDS
    is_yes = items[i].text in _YES
    if topic is None and reading.scope is None and _is_bare_one(reading, i):
        reading.assert_subject_before(i)
    is_answer = is_yes or is_last or (topic is not None and i == topic.end + 1) or _is_one(reading, i)
    if not is_answer and (following.label is not None or reading.scope is None):
        return
    reading.close_scope(i)
    topic = reading.topic
    if topic is not None and topic.is_open:
        reading.answer(topic, is_yes=True)
        reading.topic = None
    elif is_yes and topic is not None:
        reading.topic, reading.clause = None, i
    reading.negation, reading.has_verb = None, True


def _is_one(reading: Reading, i: int) -> bool:
    """True for the "one" of an open question, if nothing else was named since ("edema? I *see one* on the left")."""
    topic = reading.topic
    if topic is None or not topic.is_open or i - topic.end > _FAR or not reading.items[i].text.endswith(_ONES):
        return False
    return all(item.kind in _SILENT for item in reading.items[topic.end : i])


def _is_bare_one(reading: Reading, i: int) -> bool:
    """True for a "one" before no entity ("I did not expect a mass, but *there is one*")."""
    return reading.items[i].text.endswith((*_ONES, "there is", "there are", "is there", "are there")) and (
        i + 1 == len(reading.items) or reading.items[i + 1].label is None
    )


def ends_in_answer(reading: Reading) -> bool:
    """True if the sentence ends in a verb or number that names nothing, and a question is open ("edema? I think it
    *is*", "fractures? I count *two*")."""
    topic, last = reading.topic, reading.items[-1]
    if topic is None or not topic.is_open or topic.end >= len(reading.items) - 1:
        return False
    if last.cue not in cues.VERBS and last.text not in _CLOSING:
        return False
    return not any(item.label in ABSENT for item in reading.items[topic.end :])


def read_colon(reading: Reading, i: int) -> None:
    """Make what comes before a colon or dash the topic ("edema: absent"), and end a negation before it, unless it is
    the heading itself ("*no:* edema")."""
    if reading.is_bare_negation(i):
        before = reading.labels[reading.clause : reading.negation_at]
        if reading.topic is None and reading.items[i].text == ":" and not any(label in ABSENT for label in before):
            reading.heads_list = True
            return
        reading.answer_no(i)
    elif reading.denied:
        reading.negation = None
    elif reading.negation == cues.NEGATES_BEFORE and reading.items[i].text == ":":
        reading.heads_list = True
    if reading.scope is not None and reading.scope_cue != cues.OFFERS and reading.named_end > reading.scope:
        reading.close_scope(i)
    if reading.scope is None and not (reading.topic is not None and reading.topic.is_open):
        is_first = reading.topic is None
        start = reading.clause if is_first else max(reading.clause, reading.last_mark)
        reading.topic = Topic(start, i, is_open=False, is_heading=reading.items[i].text == ":")


def read_normal(reading: Reading, i: int) -> None:
    """Leave out a heading that something normal is said of ("pleural effusion: the angles are *sharp*")."""
    if reading.doubt == cues.NOT:
        reading.negation = None
    if reading.denied and reading.labels[i - 1] in ABSENT.values():
        reach.spare_since_comma(reading, i)
    if reading.doubt is None:
        reach.leave_out_heading(reading, i)


def open_bracket(reading: Reading, i: int) -> None:
    """Make the last member before a bracket the topic of what is inside ("edema *(*no)")."""
    if reading.topic is not None and reading.is_bare_negation(i):
        reading.answer_no(i)
    reading.outside = Outside(
        i, reading.negation, reading.clause, reading.has_verb, reading.last_mark, reading.after_list, reading.topic
    )
    if reading.scope is None and reading.negation is None:
        reading.topic = Topic(max(reading.clause, reading.last_mark), i, is_open=False)
    reading.clause = reading.last_mark = i
    reading.after_list = True


def close_bracket(reading: Reading, i: int) -> None:
    """End a negation that began inside the bracket, and go on as before it."""
    outside = reading.outside
    if outside is None:
        return
    if reading.negation_at > outside.start and reading.is_bare_negation(i):
        reading.answer_no(i)
    reading.outside = None
    reading.topic, reading.last_mark, reading.after_list = outside.topic, outside.last_mark, outside.after_list
    if reading.scope is None:
        reading.negation, reading.clause, reading.has_verb = outside.negation, outside.clause, outside.has_verb

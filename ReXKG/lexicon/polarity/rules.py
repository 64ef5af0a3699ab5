"""The rule of each cue, and the reading of a sentence by them.

Each item is first read as an entity, if it is one (`reach.read_entity`), and then by the rule of its cue, if
`POLARITY_RULES` has one. A rule may change what a negation reaches from there on, deny what the clause has said so
far, begin a clause, or leave out what the sentence does not assert. A rule's docstring says what it does and gives the
example that it is for.

Some concepts are denied as disorders are, as annotators did: a finding ("no acute *process*") by any negation, a state
by "not" ("is not *enlarged*"; "no enlarged nodes" denies the nodes).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ReXKG.lexicon import cues
from ReXKG.lexicon.items import Item
from ReXKG.lexicon.polarity import clauses, comparisons, negations, suppositions, topics
from ReXKG.lexicon.polarity.reach import read_entity
from ReXKG.lexicon.polarity.reading import Reading


def read_polarity(items: Sequence[Item]) -> Reading:
    """The reading of a sentence's items to their end. Its ``labels`` are those of the items, disorders and devices
    turned into their "notpresent" form if the sentence denies them, and None for what is not an entity and for what the
    sentence neither asserts nor denies. Linear: a clause is looked back on once."""
    reading = Reading(items)
    rule_of = POLARITY_RULES.get
    for i, (_, label, _, role, cue) in enumerate(items):
        if label is not None:
            read_entity(reading, i, label, role)
        if cue is not None and (rule := rule_of(cue)):
            rule(reading, i)
    if reading.is_bare_negation(len(items)):
        reading.answer_no(len(items))
    elif items and (items[-1].text in ("there is", "there are") or topics.ends_in_answer(reading)):
        topics.affirm(reading, len(items) - 1)
    return reading


def resolve_polarity(items: Sequence[Item]) -> list[str | None]:
    """The labels of `read_polarity`."""
    return read_polarity(items).labels


POLARITY_RULES: dict[str, Callable[[Reading, int], None]] = {
    cues.NEGATES: negations.begin_negation,
    cues.NOT: negations.begin_negation,
    cues.LACKS: negations.begin_lack,
    cues.NEGATES_BEFORE: negations.deny_before,
    cues.REMOVED: negations.deny_devices_before,
    cues.UNCERTAIN: negations.leave_unsure,
    cues.LINE: clauses.begin_line,
    cues.SPARES: negations.spare,
    cues.DOUBTS: negations.doubt,
    cues.BREAKS: clauses.begin_clause,
    cues.ENDS: clauses.begin_statement,
    cues.LIST: clauses.read_list_mark,
    cues.ARTICLE: clauses.read_article,
    cues.PRONOUN: clauses.read_pronoun,
    cues.VERB: clauses.read_verb,
    cues.SHOWS: clauses.read_shows,
    cues.SEEN: negations.read_seen,
    cues.AT: negations.read_place,
    cues.OF: negations.read_owner,
    cues.WITH: negations.end_negation,
    cues.TURNS: negations.turn,
    cues.OPENS: negations.open_finding,
    cues.COUNTS: negations.open_finding,
    cues.PERSISTS: negations.persist,
    cues.THAN: comparisons.compare,
    cues.SEEKS: suppositions.seek,
    cues.SOUGHT: suppositions.seek_before,
    cues.EXAMINES: suppositions.examine,
    cues.OFFERS: suppositions.seek,
    cues.IF: suppositions.ask_if,
    cues.SUPPOSES: suppositions.suppose,
    cues.GENERALIZES: suppositions.generalize,
    cues.JUDGES: suppositions.read_judgment,
    cues.SUGGESTS: comparisons.suggest_finding,
    cues.FITS: comparisons.hold_against,
    cues.RULES_OUT: suppositions.rule_out,
    cues.ASKS: topics.ask,
    cues.AFFIRMS: topics.affirm,
    cues.RULES_VERB: suppositions.rule_apart,
    cues.PREFERS: suppositions.read_judgment,
    cues.COLON: topics.read_colon,
    cues.NORMAL: topics.read_normal,
    cues.BRACKET: topics.open_bracket,
    cues.END_BRACKET: topics.close_bracket,
}

"""Names of the cues: what a word or phrase of `cues.tsv` does to the reading of a sentence.

A cue may have a rule in `polarity.py` (`RULES`: what is denied), one in `attachment.py` (`RULES`: what belongs to what)
or both. A new cue is a constant here, a place in `CUES`, rows in `cues.tsv` and a rule.
"""

from __future__ import annotations

NEGATES = "negates"  # "no", "without": denies what follows
NOT = "not"  # "not", "never": denies what follows, states included
NEGATES_BEFORE = "negates_before"  # "is resolved", "not seen": denies what the clause said so far
REMOVED = "removed"  # "extubated": denies the devices that the clause named so far
SPARES = "spares"  # "change", "improvement": a negation denies the change and not the finding
BREAKS = "breaks"  # "but", "there is", ";": begins a clause
LIST = "list"  # a comma, "and", "or": goes from one member of a list to the next
ARTICLE = "article"  # "the", "this": names something known
VERB = "verb"  # "is", "seen": ends the subject
SHOWS = "shows"  # "demonstrates": begins a statement of its own
SUGGESTS = "suggests"  # "likely", "due to": relates what is seen to what explains it
AT = "at"  # "in", "above": a place follows
OF = "of"  # "of", "for": what something belongs to follows
WITH = "with"  # "with", "containing": what accompanies something follows
BEFORE = "before"  # "well", "more": an entity right before another one only; its rule is in `LexiconExtractor.tag`
PLAIN = "plain"  # "cannot be excluded": nothing; keeps the cues inside a longer phrase from acting

CUES = (
    NEGATES, NOT, NEGATES_BEFORE, REMOVED, SPARES, BREAKS, LIST, ARTICLE, VERB, SHOWS, SUGGESTS, AT, OF, WITH, BEFORE,
    PLAIN,
)  # fmt: skip

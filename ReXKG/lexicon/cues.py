"""Names of the cues. A cue is the effect that a word or phrase of `cues.tsv` has on the reading of a sentence.

A cue may have a rule in `polarity.py` (`POLARITY_RULES`, for negation), in `attachment.py` (`ATTACHMENT_RULES`, for
relations), or both. To add a cue, add a constant here, its place in `CUES`, its rows in `cues.tsv` and its rule.
"""

from __future__ import annotations

NEGATES = "negates"  # "no", "without": denies what follows
NOT = "not"  # "not", "never": denies what follows, states included
NEGATES_BEFORE = "negates_before"  # "is resolved", "not seen": denies what the clause said so far
REMOVED = "removed"  # "extubated": denies the devices that the clause named so far
SPARES = "spares"  # "change", "improvement": a negation denies the change and not the finding
BREAKS = "breaks"  # "but", "there is", ";": begins a clause
LIST = "list"  # a comma, "and", "or": separates the members of a list
ARTICLE = "article"  # "the", "this": names something known
VERB = "verb"  # "is", "seen": ends the subject of the clause
SHOWS = "shows"  # "demonstrates": begins a statement of its own
SUGGESTS = "suggests"  # "likely", "due to": relates a finding to the disorder that explains it
AT = "at"  # "in", "above": a place follows
OF = "of"  # "of", "for": the owner follows
WITH = "with"  # "with", "containing": the company follows
BEFORE = "before"  # "well aerated" but not "as well": an entity only before another (`LexiconExtractor.tag`)
PLAIN = "plain"  # "cannot be excluded": no effect, but the cues inside the phrase have none either

CUES = (
    NEGATES, NOT, NEGATES_BEFORE, REMOVED, SPARES, BREAKS, LIST, ARTICLE, VERB, SHOWS, SUGGESTS, AT, OF, WITH, BEFORE,
    PLAIN,
)  # fmt: skip

"""Names of the cues. A cue is the effect that a word or phrase of `cues.tsv` has on the reading of a sentence.

A cue may have a rule in `polarity/rules.py` (`POLARITY_RULES`), in `attachment.py` (`ATTACHMENT_RULES`, for
relations), or both. To add a cue, add a constant here, its place in `CUES`, its rows in `cues.tsv` and its rule.
"""

from __future__ import annotations

NEGATES = "negates"  # "no", "without": denies what follows
NOT = "not"  # "not", "never": denies what follows, states included
LACKS = "lacks"  # "free of", "against": denies what follows, unless a doubt takes it back
NEGATES_BEFORE = "negates_before"  # "is resolved", "not seen": denies what the clause said so far
REMOVED = "removed"  # "extubated": denies the devices that the clause named so far
SPARES = "spares"  # "change", "improvement": a negation denies the change and not the finding
DOUBTS = "doubts"  # "almost", "difficult": takes back the denial that follows
UNCERTAIN = "uncertain"  # "sure": "not" before it leaves it open
BREAKS = "breaks"  # "but", "there is": begins a clause
ENDS = "ends"  # ";", a new line, a bullet: begins a statement
LINE = "line"  # a new line in lower case: begins a statement if the one before can end there
LIST = "list"  # a comma, "and", "or": separates the members of a list
ARTICLE = "article"  # "the", "this": names something known
PRONOUN = "pronoun"  # "I", "it": the subject of a clause
VERB = "verb"  # "is", "measures": ends the subject of the clause
SEEN = "seen"  # "seen", "identified": a verb that "not" turns into a denial of the clause
SHOWS = "shows"  # "demonstrates": begins a statement of its own
SUGGESTS = "suggests"  # "likely", "due to": relates a finding to the disorder that explains it
AT = "at"  # "in", "above": a place follows
OF = "of"  # "of", "for": the owner follows
WITH = "with"  # "with", "containing": the company follows
COUNTS = "counts"  # "one": the same as "opens", or it names nothing ("I do not see one")
PERSISTS = "persists"  # "remains", "came back": a verb that asserts what the last clause named
TURNS = "turns"  # "only", "just": what there is instead of what was denied
OPENS = "opens"  # "small", "left": begins another finding after a comma
FITS = "fits"  # "typical", "plausible": "than" after it holds two hypotheses against each other
THAN = "than"  # after a suggestion or "fits", a hypothesis that another is held against follows
SEEKS = "seeks"  # "evaluate for", "the question is about": what follows is neither asserted nor denied
SOUGHT = "sought"  # "must be excluded": what the clause said so far is a task
EXAMINES = "examines"  # "inspect": a task if "for" follows
OFFERS = "offers"  # "options", "asks": the same, over bullets and lists
IF = "if"  # "if", "whether": the same, unless a doubt makes it possible
SUPPOSES = "supposes"  # "would": neither the clause so far nor what follows is asserted
GENERALIZES = "generalizes"  # "typically": the same in a general statement
JUDGES = "judges"  # "call", "say": takes "would" back
RULES_OUT = "rules_out"  # "exclude": denies what follows if it has a subject, else a task
ASKS = "asks"  # "?": what the statement named is asked
AFFIRMS = "affirms"  # "yes": asserts what was asked
RULES_VERB = "rules"  # "rules": with "out" behind the finding, as "rules out"
PREFERS = "prefers"  # "prefer", "choose": "over" or "to" after it denies the hypothesis that follows
COLON = "colon"  # ":", a dash: the heading or question before it is answered
NORMAL = "normal"  # "clear", "sharp": what the heading before it names is not asserted
BRACKET = "bracket"  # "("
END_BRACKET = "end_bracket"  # ")"
BEFORE = "before"  # "well aerated" but not "as well": an entity only before another (`LexiconExtractor.tag`)
FILLS = "fills"  # "evidence", "any": names nothing that "no" before it could deny (`Reading.is_bare_negation`)
PLAIN = "plain"  # "cannot be excluded": no effect, but the cues inside the phrase have none either

CUES = (
    NEGATES, NOT, LACKS, NEGATES_BEFORE, REMOVED, SPARES, DOUBTS, UNCERTAIN, BREAKS, ENDS, LINE, LIST, ARTICLE, PRONOUN,
    VERB, PERSISTS, SEEN, SHOWS, SUGGESTS, AT, OF, WITH, TURNS, OPENS, COUNTS, FITS, THAN, SEEKS, EXAMINES, SOUGHT,
    OFFERS, IF, SUPPOSES, GENERALIZES, JUDGES, RULES_OUT, ASKS, AFFIRMS, RULES_VERB, PREFERS, COLON, NORMAL, BRACKET,
    END_BRACKET, BEFORE, FILLS, PLAIN,
)  # fmt: skip
VERBS = (VERB, PERSISTS)

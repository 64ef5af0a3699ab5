"""Names of the roles in `lexicon.tsv`. A role is the behavior of a term beyond its type."""

from __future__ import annotations

# Of concepts that modify others.
SIDE = "side"  # a word of side or place ("left"): modifies anatomy first
DEGREE = "degree"  # "mildly": modifies the next word
COURSE = "course"  # "stable": the course of something
STATE = "state"  # "enlarged": denied by "not". Of disorders: an adjective ("hyperinflated")

# Of concepts that can be modified themselves.
NOUN = "noun"  # "pattern"
FINDING = "finding"  # "process": a noun that a negation turns into an absent disorder
EVENT = "event"  # "increase"
OUTLINE = "outline"  # "silhouette"

NO_ROLE = ""
ROLES = (SIDE, DEGREE, COURSE, EVENT, NOUN, OUTLINE, FINDING, STATE)

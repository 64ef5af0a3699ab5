"""Polarity: present, denied or left out, for each disorder and device of a sentence.

`rules.py` reads a sentence's items from left to right and names the rule of each cue. A rule works on the state of the
sentence (`reading.py`). The rules are in `negations.py` (what is denied, with `reach.py` for how far), `clauses.py`
(where a clause or a negation ends), `comparisons.py` (hypotheses against each other), `suppositions.py` (what is
neither asserted nor denied) and `topics.py` (questions and headings, and the answers to them).
"""

"""Rules for hypotheses that are held against each other."""

from __future__ import annotations

from ReXKG.lexicon import cues
from ReXKG.lexicon.polarity import negations, suppositions
from ReXKG.lexicon.polarity.reading import ANY_FINDING, Reading

_NEAR = 12
_LESSER = frozenset({"less", "worse", "poorer"})


def suggest_finding(reading: Reading, i: int) -> None:
    """Open another finding after a list mark ("no effusion, *likely* atelectasis"). See also `hold_against` and
    `suppositions.suggest`."""
    hold_against(reading, i)
    suppositions.suggest(reading, i)


def hold_against(reading: Reading, i: int) -> None:
    """Open another finding after a list mark, and deny what fits less if nothing is held against it ("*less like* a
    mass and more like a nodule")."""
    negations.open_finding(reading, i)
    if _LESSER.isdisjoint(reading.items[i].text.split()):
        return
    if not any(item.cue == cues.THAN for item in reading.items[i + 1 : i + _NEAR]):
        reading.new_negation(i, cues.LACKS)


def compare(reading: Reading, i: int) -> None:
    """Deny the hypothesis that another is held against ("more likely atelectasis *than* pneumonia"), or the one before
    ("less like pneumonia *than* edema")."""
    kinds = [
        not _LESSER.isdisjoint(item.text.split())
        for item in reading.items[max(reading.clause, i - _NEAR) : i]
        if item.cue in (cues.SUGGESTS, cues.FITS)
    ]
    if any(kinds):
        reading.deny(reading.clause, i, ANY_FINDING)
        reading.negation = None
    elif kinds:
        reading.new_negation(i, cues.LACKS)

"""Structured reports: a form that asks for each finding, filled in from the facts of a study."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tools.demo_world import language
from tools.demo_world.facts import DEVICES, FINDING_KINDS, Study

Line = tuple[str, str]  # the words of the form, and the words filled in


def report_of(study: Study, rng: np.random.Generator) -> list[Line]:
    """Every finding and device, the view and the sex, in any order: one sentence each, and one of its properties."""
    subjects = list(_subjects(study))
    lines: list[Line] = []
    for place in rng.permutation(len(subjects)):
        name, sentence, properties = subjects[place]
        lines += [(f"{name}:", sentence.wordings[0]), properties[rng.integers(len(properties))]]
    return lines


def _subjects(study: Study) -> Iterator[tuple[str, language.FactSentence, list[Line]]]:
    for thing in (*FINDING_KINDS, *DEVICES):
        shown = study.shows(thing)
        sentence = language.thing_present(study, thing) if shown else language.thing_absent(thing)
        yield thing, sentence, [("Present:", "yes" if shown else "no"), *_properties(study, thing)]
    yield "view", language.view_sentence(study.view), [("View:", study.view)]
    yield "sex", language.sex_sentence(study.sex), [("Sex:", study.sex)]


def _properties(study: Study, thing: str) -> Iterator[Line]:
    finding = study.find(thing)
    if finding is None:
        return
    if finding.side:
        yield "Side:", finding.side
    if finding.zone and len(FINDING_KINDS[thing].zones) > 1:
        yield "Zone:", finding.zone
    if finding.severity:
        yield "Severity:", finding.severity

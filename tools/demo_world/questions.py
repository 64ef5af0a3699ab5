"""Questions about one study: every question that a study can answer, as drafts from which the data set is balanced.

A draft holds the slots of its template, the answer, and the sentences that justify it. ``topic`` and ``outcome``
control the balance: within one topic (say, nodules) the outcomes (yes and no) should be equally frequent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from tools.demo_world import language
from tools.demo_world.facts import (
    DEVICES,
    FINDING_KINDS,
    REGIONS,
    SIDES,
    VIEWS,
    ZONES,
    Finding,
    Region,
    Study,
    possible_in,
)
from tools.demo_world.language import FactSentence, with_article

MAX_LISTED = 3
YES_NO = ("yes", "no")


@dataclass(frozen=True)
class Draft:
    """One possible question with its answer. ``outcomes`` names every outcome of the topic if they are fixed."""

    template: str
    answer: tuple[str, ...]
    said: tuple[FactSentence, ...]
    slots: dict[str, str] = field(default_factory=dict)
    topic: str = ""
    outcome: str = ""
    outcomes: tuple[str, ...] = ()


def verify(template: str, truth: bool, said: FactSentence, topic: str, /, **slots: str) -> Draft:
    """A yes/no draft."""
    outcome = "yes" if truth else "no"
    return Draft(template, (outcome,), (said,), slots, topic, outcome, YES_NO)


def _state(study: Study, thing: str) -> FactSentence:
    return language.thing_present(study, thing) if study.shows(thing) else language.thing_absent(thing)


def _presence(study: Study, rng: np.random.Generator) -> Iterator[Draft]:
    for thing in (*FINDING_KINDS, *DEVICES):
        yield verify(
            "verify_presence", study.shows(thing), _state(study, thing), thing,
            thing=thing, a_thing=with_article(thing),
        )  # fmt: skip
    for kind in FINDING_KINDS.values():
        for side in SIDES if kind.sided else ():
            finding = study.find(kind.name)
            here = finding is not None and finding.side == side
            said = language.finding_present(finding) if here else language.absent_on_side(kind.name, side)
            yield verify(
                "verify_side", here, said, f"{side} {kind.name}",
                thing=kind.name, a_thing=with_article(kind.name), side=side,
            )  # fmt: skip


def _severity(study: Study, rng: np.random.Generator) -> Iterator[Draft]:
    for finding in study.findings:
        severities = FINDING_KINDS[finding.kind].severities
        if not severities:
            continue
        said = (language.finding_present(finding),)
        for severity in severities:
            yield verify(
                "verify_severity", severity == finding.severity, said[0], f"{finding.kind} {severity}",
                kind=finding.kind, severity=severity,
            )  # fmt: skip
        options = ", ".join(severities[:-1]) + f" or {severities[-1]}"
        about = {"topic": finding.kind, "outcome": finding.severity, "outcomes": severities}
        yield Draft("choose_severity", (finding.severity,), said, {"kind": finding.kind, "options": options}, **about)
        if finding.kind != "cardiomegaly":
            yield Draft("query_severity", (finding.severity,), said, {"kind": finding.kind}, **about)


def _heart(study: Study, rng: np.random.Generator) -> Iterator[Draft]:
    finding, said = study.find("cardiomegaly"), _state(study, "cardiomegaly")
    yield verify("verify_size", finding is not None, said, "heart")
    size = finding.severity if finding else "normal"
    yield Draft("query_size", (size,), (said,), topic="heart", outcome=size)


def _view_and_sex(study: Study, rng: np.random.Generator) -> Iterator[Draft]:
    said = language.view_sentence(study.view)
    for view in VIEWS:
        yield verify("verify_plane", view == study.view, said, view, view=view, a_view=language.a_view(view))
    for template in ("choose_plane", "query_plane"):
        yield Draft(template, (study.view,), (said,), topic="view", outcome=study.view)
    said = language.sex_sentence(study.sex)
    for sex, word in (("m", "male"), ("f", "female")):
        yield verify("verify_gender", sex == study.sex, said, sex, sex_word=word)
    for template in ("choose_gender", "query_gender"):
        yield Draft(template, (study.sex,), (said,), topic="sex", outcome=study.sex)


def _choose_finding(study: Study, rng: np.random.Generator) -> Iterator[Draft]:
    things = (*FINDING_KINDS, *DEVICES)
    for _ in range(12):
        first, second = (things[i] for i in rng.permutation(len(things))[:2])
        if not (study.shows(first) and study.shows(second)):
            yield two_options("choose_finding", study, (first, second), (study.shows(first), study.shows(second)))


def two_options(
    template: str, study: Study, things: tuple[str, str], shown: tuple[bool, bool], region: Region | None = None
) -> Draft:
    """A choice between two things, of which one or neither is present. (If both were, either answer would be right.)"""
    answer = tuple(thing for thing, here in zip(things, shown, strict=True) if here)
    said = tuple(language.thing_present(study, thing) for thing in answer) or (language.none_of(things, region),)
    outcome = "first" if shown[0] else "second" if shown[1] else "neither"
    slots = {"first": things[0], "second": things[1]} | ({"region": region.name} if region else {})
    return Draft(template, answer, said, slots, "", outcome, ("first", "second", "neither"))


def _place(study: Study, rng: np.random.Generator) -> Iterator[Draft]:
    for finding in study.findings:
        kind, said = FINDING_KINDS[finding.kind], (language.finding_present(finding),)
        if not kind.sided:
            continue
        slots = {"kind": kind.name}
        about = {"topic": kind.name}
        yield Draft("choose_side", (finding.side,), said, slots, outcome=finding.side, outcomes=SIDES, **about)
        if len(kind.zones) > 1:
            yield Draft("choose_zone", (finding.zone,), said, slots, outcome=finding.zone, outcomes=ZONES, **about)
            region = Region(finding.side, finding.zone).name
            yield Draft("query_anatomy", (region,), said, slots, outcome=region, **about)


def _lists(study: Study, rng: np.random.Generator) -> Iterator[Draft]:
    if len(study.findings) <= MAX_LISTED:
        yield list_findings("query_abnormality", study.findings, language.all_clear(), "")
    said = tuple(language.device_present(device) for device in study.devices) or (language.no_devices(),)
    outcome = " ".join(study.devices)
    yield Draft("query_device", study.devices, said, topic="devices", outcome=outcome)


def list_findings(
    template: str, findings: tuple[Finding, ...], nothing: FactSentence, topic: str, **slots: str
) -> Draft:
    """A query for findings. ``nothing`` is the sentence for a study without any."""
    said = tuple(language.finding_present(finding) for finding in findings) or (nothing,)
    names = tuple(finding.kind for finding in findings)
    return Draft(template, names, said, slots, topic, " ".join(names))


def _region(study: Study, rng: np.random.Generator) -> Iterator[Draft]:
    for region in REGIONS:
        findings = study.within(region)
        if len(findings) > MAX_LISTED:
            continue
        slots = {"region": region.name}
        clear = language.region_clear(region)
        said = language.finding_present(findings[0]) if findings else clear
        yield verify("region_abnormality", bool(findings), said, region.name, **slots)
        yield list_findings("region_query", findings, clear, region.name, **slots)
        kinds = [kind.name for kind in FINDING_KINDS.values() if possible_in(kind, region)]
        here = {finding.kind: finding for finding in findings}
        for kind in kinds:
            said = language.finding_present(here[kind]) if kind in here else language.thing_absent(kind, region)
            yield verify(
                "region_presence", kind in here, said, f"{region.name} {kind}",
                kind=kind, a_kind=with_article(kind), **slots,
            )  # fmt: skip
        pair = tuple(kinds[i] for i in rng.permutation(len(kinds))[:2])
        if not set(pair) <= set(here):
            yield two_options("region_choose", study, pair, (pair[0] in here, pair[1] in here), region)


def _region_side(study: Study, rng: np.random.Generator) -> Iterator[Draft]:
    for finding in study.findings:
        if not FINDING_KINDS[finding.kind].sided:
            continue
        places = [region for region in REGIONS if possible_in(FINDING_KINDS[finding.kind], region)]
        true = [region for region in places if finding.cells & region.cells]
        for region in true:
            rivals = [other for other in places if other not in true and (other.zone is None) == (region.zone is None)]
            rival = rivals[rng.integers(len(rivals))]
            first, second = (region, rival) if rng.random() < 0.5 else (rival, region)
            yield Draft(
                "region_side", (region.name,), (language.finding_present(finding),),
                {"kind": finding.kind, "first": first.name, "second": second.name},
                finding.kind, region.name,
            )  # fmt: skip


GENERATORS: tuple[Callable[[Study, np.random.Generator], Iterator[Draft]], ...] = (
    _presence, _severity, _heart, _view_and_sex, _choose_finding, _place, _lists, _region, _region_side,
)  # fmt: skip


def drafts_of(study: Study, rng: np.random.Generator) -> list[Draft]:
    """Every draft about one study, all templates of the groups basic and region."""
    return [draft for generate in GENERATORS for draft in generate(study, rng)]

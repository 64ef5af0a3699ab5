"""Facts of the demo world: everything that is true of a patient's study, before anything is drawn or asked.

A study is a frontal chest X-ray with a view, a sex, findings (each at most once) and devices. One cell (side, zone) of
the lungs shows at most one finding, so every fact stays visible.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

SIDES = ("left", "right")
ZONES = ("upper", "mid", "lower")
VIEWS = ("ap", "pa")
SEXES = ("m", "f")
DEVICES = ("endotracheal tube", "pacemaker")
PREVALENCE = 0.34
APPEARING = 0.3  # chance of a finding that a second study adds, at the usual prevalence

Cell = tuple[str, str]


@dataclass(frozen=True)
class Kind:
    """Properties of findings of one kind. ``sided``: it is in one lung. ``severities``: the weakest first."""

    name: str
    sided: bool
    zones: tuple[str, ...] = ()
    severities: tuple[str, ...] = ()


FINDING_KINDS = {
    kind.name: kind
    for kind in (
        Kind("pleural effusion", True, ("lower",), ("small", "moderate", "large")),
        Kind("pneumothorax", True, ("upper",), ("small", "large")),
        Kind("consolidation", True, ZONES),
        Kind("nodule", True, ZONES),
        Kind("atelectasis", True, ("lower",)),
        Kind("cardiomegaly", False, (), ("mild", "moderate", "severe")),
        Kind("pulmonary edema", False, ("mid",), ("mild", "severe")),
    )
}


@dataclass(frozen=True)
class Finding:
    """One finding. A property is None if its kind does not have it (edema is in both lungs, so it has no side)."""

    kind: str
    side: str | None = None
    zone: str | None = None
    severity: str | None = None

    @property
    def cells(self) -> frozenset[Cell]:
        """The (side, zone) cells of the lungs in which the finding is seen. Large pleural ones reach the mid zone."""
        sides = (self.side,) if self.side else SIDES
        zones = {self.zone} if self.zone else set()
        if self.zone and self.severity == "large":
            zones.add("mid")
        return frozenset((side, zone) for side in sides for zone in zones)

    @property
    def rank(self) -> int:
        """Severity as a number from 0, to compare two studies."""
        severities = FINDING_KINDS[self.kind].severities
        return severities.index(self.severity) if severities else 0


@dataclass(frozen=True)
class Region:
    """A place a question can name: a whole lung (``zone`` None) or one of its three zones."""

    side: str
    zone: str | None = None

    @property
    def name(self) -> str:
        return f"{self.side} {self.zone} lung zone" if self.zone else f"{self.side} lung"

    @property
    def cells(self) -> frozenset[Cell]:
        return frozenset((self.side, zone) for zone in ((self.zone,) if self.zone else ZONES))


REGIONS = tuple(Region(side, zone) for side in SIDES for zone in (None, *ZONES))


@dataclass(frozen=True)
class Study:
    """One study with one image. ``patient`` and ``index`` seed the drawing of the body and of the exposure."""

    subject_id: str
    study_id: str
    image_id: str
    patient: int
    index: int
    view: str
    sex: str
    findings: tuple[Finding, ...] = ()
    devices: tuple[str, ...] = ()

    def find(self, kind: str) -> Finding | None:
        """The finding of that kind, or None."""
        return next((finding for finding in self.findings if finding.kind == kind), None)

    def within(self, region: Region) -> tuple[Finding, ...]:
        """Findings seen in the region."""
        return tuple(finding for finding in self.findings if finding.cells & region.cells)

    def shows(self, thing: str) -> bool:
        """True if a finding or device of that name is present."""
        return thing in self.devices or self.find(thing) is not None


@lru_cache
def possible_in(kind: Kind, region: Region) -> bool:
    """True if a finding of the kind can be seen in the region."""
    zones = set(kind.zones) | ({"mid"} if "large" in kind.severities else set())
    return bool({zone for _, zone in region.cells} & zones)


def _blocked(finding: Finding) -> frozenset[Cell]:
    """Cells in which another finding could not be seen. A big heart covers the left base."""
    if finding.kind == "cardiomegaly" and finding.severity != "mild":
        return frozenset({("left", "lower")})
    return finding.cells


def compatible(finding: Finding, others: tuple[Finding, ...]) -> bool:
    """True if the finding stays visible beside the others. Fluid and a big heart may share the left base."""
    for other in others:
        pair = {finding.kind, other.kind}
        if pair != {"cardiomegaly", "pleural effusion"} and _blocked(finding) & _blocked(other):
            return False
    return True


def _variants(kind: Kind) -> list[Finding]:
    return [
        Finding(kind.name, side, zone, severity)
        for side in (SIDES if kind.sided else (None,))
        for zone in (kind.zones or (None,))
        for severity in (kind.severities or (None,))
    ]


def _shuffled(items: list, rng: np.random.Generator) -> list:
    return [items[i] for i in rng.permutation(len(items))]


def _add_findings(
    findings: tuple[Finding, ...], barred: set[str], probability: float, rng: np.random.Generator
) -> tuple[Finding, ...]:
    """Try each kind that is not barred, with the given probability. A finding without a free place is left out."""
    for kind in _shuffled([kind for kind in FINDING_KINDS.values() if kind.name not in barred], rng):
        if rng.random() >= probability:
            continue
        fitting = [finding for finding in _variants(kind) if compatible(finding, findings)]
        if fitting:
            findings = (*findings, fitting[rng.integers(len(fitting))])
    return findings


def _in_order(findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
    order = list(FINDING_KINDS)
    return tuple(sorted(findings, key=lambda finding: order.index(finding.kind)))


def first_study(number: int, patient: int, index: int, rng: np.random.Generator, prevalence: float) -> Study:
    """A patient's first study. ``number`` appears in the ids, which all begin with "demo-". ``prevalence`` is the
    chance of each kind of finding and of each device."""
    subject = f"demo-{number:05d}"
    return Study(
        subject_id=subject,
        study_id=f"{subject}-s1",
        image_id=f"{subject}-s1-frontal",
        patient=patient,
        index=index,
        view=VIEWS[rng.integers(2)],
        sex=SEXES[rng.integers(2)],
        findings=_in_order(_add_findings((), set(), prevalence, rng)),
        devices=tuple(device for device in DEVICES if rng.random() < prevalence),
    )


def next_study(study: Study, index: int, rng: np.random.Generator, prevalence: float) -> Study:
    """The patient's following study: findings resolve, stay, change or appear, and devices come and go."""
    remaining: tuple[Finding, ...] = ()
    for finding in study.findings:
        if rng.random() < 0.35:
            continue
        severities = FINDING_KINDS[finding.kind].severities
        if severities and rng.random() < 0.65:
            changed = replace(finding, severity=severities[rng.integers(len(severities))])
            others = tuple(other for other in study.findings if other is not finding)
            finding = changed if compatible(changed, (*others, *remaining)) else finding
        remaining = (*remaining, finding)
    barred = {finding.kind for finding in study.findings}
    return replace(
        study,
        study_id=f"{study.subject_id}-s2",
        image_id=f"{study.subject_id}-s2-frontal",
        index=index,
        view=study.view if rng.random() < 0.7 else VIEWS[rng.integers(2)],
        findings=_in_order(_add_findings(remaining, barred, APPEARING * (prevalence / PREVALENCE), rng)),
        devices=tuple(d for d in DEVICES if (d in study.devices) != (rng.random() < 0.4)),
    )


def overlook(study: Study, share: float, rng: np.random.Generator) -> Study:
    """The study as a careless reader sees it: each finding and device is missed with the chance ``share``, and a
    finding that is not missed is called one degree milder with the same chance."""
    seen = []
    for finding in study.findings:
        missed, milder = rng.random(2) < share
        if missed:
            continue
        if milder and finding.rank:
            finding = replace(finding, severity=FINDING_KINDS[finding.kind].severities[finding.rank - 1])
        seen.append(finding)
    return replace(
        study, findings=tuple(seen), devices=tuple(device for device in study.devices if rng.random() >= share)
    )

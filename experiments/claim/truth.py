"""Agreement of reasoning with the drawn truth: every statement about an image is held against the facts of its study.

References say only what a question needs, and score a true remark beside it as invented. The facts of a drawn study are
complete, so each statement is true or false. Statements are read as findings (`ReXKG.findings`), as the rewards read
them, and by the words for view and sex. These rules decide:

    asserted      true if the study shows such a finding with the stated side, zone and severity
    denied        true if it shows none
    view, sex     true if it is the study's
    unjudged      another finding than the world draws, a change since another image, or no statement of a fact

Only questions about one image are judged. The truth of a comparison would need a reader of changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ReXKG.claims import is_about
from ReXKG.finding_scores import same_finding
from ReXKG.findings import GENERIC, FindingReader, StatedFinding, TextFindings
from swift.utils.errors import UserError
from swift.utils.files import read_json
from tools.demo_world.build import KIND, VERSION
from tools.demo_world.dataset import WorldConfig, build_world
from tools.demo_world.facts import DEVICES, FINDING_KINDS, Finding, Study
from utils.answers import think_text
from utils.consistency import EXCLUSIVE_ANSWERS, answers_said

_SEVERITY = {"small": 1, "mild": 1, "moderate": 2, "large": 3, "severe": 3}  # as `StatedFinding.severity`
_DEVICE_SIDES = {"pacemaker": frozenset({"left"})}


@dataclass(frozen=True)
class Judgment:
    """Counts of the claims of one reasoning.

    Attributes:
        true, false: judged claims, those about view and sex included.
        asserted: judged claims that a finding or device is there.
        invented: those of them whose finding or device the study does not show anywhere.
        unjudged: claims and statements that cannot be judged.
    """

    true: int
    false: int
    asserted: int
    invented: int
    unjudged: int

    @property
    def is_sound(self) -> bool:
        """True if something is said that is true, and nothing that is false."""
        return self.true > 0 and self.false == 0


@cache  # the home world takes 15 seconds
def read_studies(world: Path) -> dict[str, Study]:
    """The studies of the demo world in a folder by image id, rebuilt from its manifest. Raises UserError."""
    manifest = read_json(world / "manifest.json", "name the folder of a demo world, made by tools.make_demo")
    made_by = manifest.get("kind"), manifest.get("version")
    if made_by != (KIND, VERSION):
        raise UserError(
            f"{world / 'manifest.json'}: it is of {made_by[0]}, version {made_by[1]}, and known are the facts of "
            f"a {KIND}, version {VERSION}; make the world again with tools.make_demo"
        )
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in manifest["arguments"].items()}
    return {study.image_id: study for study in build_world(WorldConfig(**values)).studies}


def judge_reasonings(texts: Sequence[str], studies: Sequence[Study], reader: FindingReader) -> list[Judgment]:
    """The judgment of the reasoning of each text, its ``<think>`` part or else the whole, by the facts of a study."""
    readings = reader([think_text(text) for text in texts])
    silent = _silent_statements(readings, reader)
    return [_judge(reading, study, silent) for reading, study in zip(readings, studies, strict=True)]


def _silent_statements(readings: Sequence[TextFindings], reader: FindingReader) -> set[str]:
    """Statements that hold no finding, view or sex."""
    statements = list(dict.fromkeys(statement for reading in readings for statement in reading.statements))
    return {
        statement
        for statement, reading in zip(statements, reader(statements), strict=True)
        if not reading.findings and not any(answers_said(group, [statement]) for group in EXCLUSIVE_ANSWERS.values())
    }


def _judge(reading: TextFindings, study: Study, silent: set[str]) -> Judgment:
    facts = drawn_facts(study)
    truths = [(claim, truth_of_claim(claim, facts)) for claim in reading.findings]
    verdicts = [truth for _, truth in truths if truth is not None]
    shown: Mapping[str, str] = {"view": study.view, "sex": study.sex}
    for subject, group in EXCLUSIVE_ANSWERS.items():
        verdicts += [said == shown[subject] for said in answers_said(group, reading.statements)]
    asserted = [claim for claim, truth in truths if truth is not None and claim.present]
    return Judgment(
        true=sum(verdicts),
        false=len(verdicts) - sum(verdicts),
        asserted=len(asserted),
        invented=sum(not any(is_about(claim.name, fact) for fact in facts) for claim in asserted),
        unjudged=sum(truth is None for _, truth in truths) + len(silent.intersection(reading.statements)),
    )


def drawn_facts(study: Study) -> list[StatedFinding]:
    """The findings and devices of a study, each with all sides and zones in which it is seen."""
    devices = [
        StatedFinding(device, True, _DEVICE_SIDES.get(device, frozenset()), is_device=True) for device in study.devices
    ]
    return [*map(_fact, study.findings), *devices]


def _fact(finding: Finding) -> StatedFinding:
    sides, zones = (frozenset(cell[part] for cell in finding.cells) for part in (0, 1))
    return StatedFinding(finding.kind, True, sides, zones, _SEVERITY.get(finding.severity))


def truth_of_claim(claim: StatedFinding, facts: Sequence[StatedFinding]) -> bool | None:
    """Truth of a claim by the facts of one image; None if it is of a change or of something that is never drawn."""
    drawn = claim.name in GENERIC or any(same_finding(claim.name, thing) for thing in (*FINDING_KINDS, *DEVICES))
    if not drawn or claim.is_earlier or claim.course is not None:
        return None
    return claim.present == any(is_about(claim.name, fact) and _fits(claim, fact) for fact in facts)


def _fits(claim: StatedFinding, fact: StatedFinding) -> bool:
    """True if the fact has the sides, zones and severity that the claim states. A property that a fact does not have is
    not compared, but something without a place is not in the place of "no abnormality in the left lung"."""
    for stated, own in ((claim.sides, fact.sides), (claim.zones, fact.zones)):
        if stated and not (stated & own) and (own or claim.name in GENERIC):
            return False
    return claim.severity is None or fact.severity in (None, claim.severity)

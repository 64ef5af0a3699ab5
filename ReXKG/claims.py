"""Questions as claims: the findings that a question names and what it asks of them, and their truth by findings.

"Is there an effusion on the right?" claims an effusion with the side right. A question is not a statement, so its
opening words are removed before it is read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence, Set
from enum import Enum
from typing import NamedTuple

from ReXKG.finding_mentions import CARDIOMEGALY
from ReXKG.finding_scores import same_finding
from ReXKG.finding_words import WordKind, finding_words
from ReXKG.findings import ABNORMALITY, DEVICE, GENERIC, RESOLVED, UNRESOLVED, FindingReader, StatedFinding
from ReXKG.text import tokenize

_OPENER = re.compile(
    r"^(?:compared (?:with|to) [^,?]*,\s*)?"
    r"(?:is|are|was|were|do|does|did|has|have|had|can|could|will|would|should|which|what|where|how|list|name)\b\s*"
    r"(?:there\b|you\b|we\b|it\b|this\b|that\b)?\s*(?:call|say|any|evidence (?:of|for|that)|signs? of)?\s*",
    re.IGNORECASE,
)
_GENERIC_WORDS = {
    **dict.fromkeys(("finding", "findings", "abnormality", "abnormalities", "abnormal"), ABNORMALITY),
    **dict.fromkeys(("device", "devices", "hardware"), DEVICE),
}


class Claim(NamedTuple):
    """A question as a claim: the findings that it names, and the attributes that it asks about."""

    names: tuple[str, ...]
    sides: frozenset[str]
    zones: frozenset[str]
    severities: frozenset[int]
    courses: frozenset[str]
    is_denial: bool = False  # asks if something is normal or absent
    is_bilateral: bool = False  # asks about both sides together


def read_claims(questions: Sequence[str], reader: FindingReader) -> list[Claim]:
    """The claim of each question."""
    phrases = [_as_phrase(question) for question in questions]
    return [
        _claim(reading.findings, tokenize(phrase)) for reading, phrase in zip(reader(phrases), phrases, strict=True)
    ]


def _as_phrase(question: str) -> str:
    """The question as a noun phrase, so that a reader of statements reads it."""
    sentence = re.split(r"[?\n]", question.strip(), maxsplit=1)[0]
    phrase = _OPENER.sub("", sentence, count=1)
    return _OPENER.sub("", phrase, count=1) if phrase.lower().startswith(("which", "what", "is", "has")) else phrase


def _claim(findings: Sequence[StatedFinding], words: Sequence[str]) -> Claim:
    tags = finding_words().tag(words)
    names = [finding.name for finding in findings]
    of_heart = any(tag.kind == WordKind.ORGAN and tag.value == CARDIOMEGALY for tag in tags)
    if not names and of_heart and ("size" in words or any(tag.kind == WordKind.ENLARGED for tag in tags)):
        names = [CARDIOMEGALY]
    if not names:
        names = [name for word, name in _GENERIC_WORDS.items() if word in words]

    def values(kind: str) -> list[str]:
        return [value for tag in tags if tag.kind == kind for value in tag.value.split()]

    return Claim(
        tuple(dict.fromkeys(names)),
        frozenset(values(WordKind.SIDE)),
        frozenset(values(WordKind.ZONE)),
        frozenset(map(int, values(WordKind.SEVERITY))),
        frozenset(values(WordKind.COURSE)),
        is_denial=any(not f.present and f.course is None for f in findings) and not any(f.present for f in findings),
        is_bilateral=any(tag.kind == WordKind.SIDE and len(tag.value.split()) > 1 for tag in tags),
    )


def truth_of(claim: Claim, findings: Sequence[StatedFinding]) -> bool | None:
    """Truth of a claim by findings; None if they say nothing of it.

    A claim with one value of an attribute ("on the right", "small", "increased") is true by an asserted finding with
    this value. It is false by one with another value and by a denied one. If none decides, it is true by an asserted
    finding that leaves the attribute open. "No nodule" decides about any abnormality only if nothing else does. A
    bilateral claim is true if it is true of each side. A denial ("is the heart normal?") is true if its finding is not.
    """
    if claim.is_denial:
        truth = truth_of(claim._replace(is_denial=False), findings)
        return None if truth is None else not truth
    if claim.is_bilateral:
        one_side = claim._replace(is_bilateral=False)
        truths = [truth_of(one_side._replace(sides=frozenset({side})), findings) for side in sorted(claim.sides)]
        return None if None in truths else all(truths)
    verdicts = {_verdict(claim, finding) for finding in findings if not finding.is_earlier}
    return next((verdict in (_Verdict.TRUE, _Verdict.OPEN) for verdict in _Verdict if verdict in verdicts), None)


class _Verdict(Enum):
    """Verdicts of a finding on a claim, the weightier first."""

    TRUE, FALSE, OPEN, PARTLY_FALSE = range(4)


def _verdict(claim: Claim, finding: StatedFinding) -> _Verdict | None:
    """The verdict of one finding, None if it is about something else."""
    if not any(is_about(name, finding) for name in claim.names):
        return None
    verdict = _verdict_of_same(claim, finding)
    is_part = finding.name not in GENERIC and not any(same_finding(name, finding.name) for name in claim.names)
    return _Verdict.PARTLY_FALSE if is_part and verdict is _Verdict.FALSE else verdict


def _verdict_of_same(claim: Claim, finding: StatedFinding) -> _Verdict | None:
    """The verdict of a finding that the claim covers."""
    course = next(iter(claim.courses)) if len(claim.courses) == 1 else None
    if not finding.present:
        return _verdict_of_denial(claim, finding, course)
    asked = [(claim.sides, finding.sides), (claim.zones, finding.zones)]
    if len(claim.severities) == 1:
        asked.append((claim.severities, {finding.severity} - {None}))
    if course == RESOLVED or any(own and wanted and not own & wanted for wanted, own in asked):
        return _Verdict.FALSE
    if course is not None and finding.course != course:
        return _Verdict.FALSE
    return _Verdict.OPEN if any(wanted and not own for wanted, own in asked) else _Verdict.TRUE


def _verdict_of_denial(claim: Claim, finding: StatedFinding, course: str | None) -> _Verdict | None:
    """The verdict of a denied finding, None if it denies less than the claim asks for ("no new nodule")."""
    if finding.course == RESOLVED:
        return _Verdict.TRUE if course == RESOLVED else _Verdict.FALSE
    if finding.course == UNRESOLVED:
        return _Verdict.FALSE if course == RESOLVED else None
    here = _within(finding.sides, claim.sides) and _within(finding.zones, claim.zones)
    narrower = (finding.course is not None and finding.course != course) or (
        finding.severity is not None and finding.severity not in claim.severities
    )
    return _Verdict.FALSE if here and not narrower else None


def _within(own: Set[str], asked: Set[str]) -> bool:
    return not own or not asked or bool(own & asked)


def is_about(name: str, finding: StatedFinding) -> bool:
    """True if a name of a claim, which may be a generic one, covers the finding."""
    if name in GENERIC:
        return finding.is_device == (name == DEVICE) or finding.name == name
    return same_finding(name, finding.name)

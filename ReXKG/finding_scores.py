"""Agreement of findings: with a reference, with a radiologist's report, and of a text with itself. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence

from ReXKG.findings import GENERIC, RESOLVED, StatedFinding

SHARE_OF_NAME = 0.4  # of the credit for a finding; the rest is for the attributes that the reference states
NOT_SAID = 0.25  # credit for an attribute that is left out; a wrong one has none
NARROWER = 0.5  # credit for a denial that denies less than the reference does
WRONG_POLARITY, WRONG_SIDE = -1.0, -0.5  # an omitted finding has 0
UNSUPPORTED = 0.25  # cost of a finding that the reference does not mention
DENIAL_WEIGHT = 0.25  # of a denied finding, against 1 for an asserted one, if a report is the reference


def same_finding(first: str, second: str) -> bool:
    """True if two names mean the same finding: equal, or one is the other's head ("tube", "endotracheal tube")."""
    return first == second or first.endswith(f" {second}") or second.endswith(f" {first}")


def findings_score(predicted: Sequence[StatedFinding], reference: Sequence[StatedFinding], repeated: int = 0) -> float:
    """Agreement of findings with those of a reference, from -1 to 1.

    Each finding is matched with at most one of the reference, the best pairs first. With c the credit of a pair
    (`credit`) and u the findings that have no partner, the score is (2 sum of c - cost of u) / (|p| + |r| + repeated),
    cut off at -1. It is an F1 in which wrong claims have negative credit. A prediction without findings scores 0. An
    unmatched finding costs `UNSUPPORTED`, or 1 if it contradicts the reference.

    Args:
        predicted: the findings p of a completion.
        reference: the findings r of the solution.
        repeated: findings that the completion states again in the same words.
    """
    if not predicted:
        return 0.0
    pairs = [
        (value, number, place)
        for number, finding in enumerate(predicted)
        for place, truth in enumerate(reference)
        if (value := credit(finding, truth)) is not None
    ]
    total, used, matched = 0.0, set(), set()
    for value, number, place in sorted(pairs, key=lambda pair: (-pair[0], pair[1:])):
        if number not in used and place not in matched:
            used.add(number)
            matched.add(place)
            total += 2 * value
    for number in range(len(predicted)):
        if number not in used:
            worst = min((value for value, own, _ in pairs if own == number), default=0.0)
            total -= 1.0 if worst == WRONG_POLARITY else UNSUPPORTED
    return max(-1.0, total / (len(predicted) + len(reference) + repeated))


def credit(finding: StatedFinding, truth: StatedFinding) -> float | None:
    """Credit of a finding against one of the reference, from -1 to 1; None if the two are about different things."""
    if not same_finding(finding.name, truth.name) or finding.is_earlier != truth.is_earlier:
        return None
    if finding.present != truth.present:
        return WRONG_POLARITY if contradicts(finding, truth) else None
    if finding.sides and truth.sides and not finding.sides & truth.sides:
        return WRONG_SIDE
    stated = [(truth.sides, finding.sides), (truth.zones, finding.zones), (truth.places, finding.places)]
    scores = [len(own & right) / len(own | right) if own else NOT_SAID for right, own in stated if right]
    if truth.severity is not None:
        near = finding.severity is not None and 1 - abs(finding.severity - truth.severity) / 2
        scores.append(NOT_SAID if finding.severity is None else near)
    if truth.course is not None:
        scores.append(NOT_SAID if finding.course is None else float(finding.course == truth.course))
    value = SHARE_OF_NAME + (1 - SHARE_OF_NAME) * sum(scores) / len(scores) if scores else 1.0
    return value * NARROWER if not finding.present and _is_narrower(finding, truth) else value


def _is_narrower(denial: StatedFinding, truth: StatedFinding) -> bool:
    """True if a denial names an attribute where the reference denies without it."""
    pairs = zip(denial[2:6], truth[2:6], strict=True)
    return any(own and not right for own, right in pairs)


def contradicts(first: StatedFinding, second: StatedFinding) -> bool:
    """True if not both can be true: one denies what the other asserts, or both assert the same finding with attributes
    that exclude each other. A denial with attributes ("no right effusion", "no new nodule") denies only those."""
    if not same_finding(first.name, second.name) or first.is_earlier != second.is_earlier:
        return False
    if first.present and second.present:
        same_place = first.sides == second.sides and first.zones == second.zones
        return same_place and (_differ(first.severity, second.severity) or _differ(first.course, second.course))
    if not first.present and not second.present:
        return False
    asserted, denied = (first, second) if first.present else (second, first)
    if denied.course not in (None, RESOLVED) and denied.course != asserted.course:
        return False
    if denied.severity is not None and denied.severity != asserted.severity:
        return False
    return _meet(asserted.sides, denied.sides) and _meet(asserted.zones, denied.zones)


def _meet(asserted: frozenset[str], denied: frozenset[str]) -> bool:
    """True if what is denied there includes what is asserted there. No place means everywhere, or somewhere."""
    return not denied or bool(asserted & denied)


def _differ(first: object, second: object) -> bool:
    return first is not None and second is not None and first != second


def contradictions(findings: Sequence[StatedFinding]) -> int:
    """The number of pairs of findings of one text that contradict each other. "No other finding" contradicts none."""
    return sum(
        contradicts(first, second)
        for number, first in enumerate(findings)
        for second in findings[number + 1 :]
        if first.name not in GENERIC
    )


def report_score(findings: Sequence[StatedFinding], report: Sequence[StatedFinding]) -> float:
    """Agreement of findings with a radiologist's report that need not mention all of them, above -1 and below 1.

    A finding is supported if one of the report says the same, with at least the same sides, and contradicted if one
    contradicts it or has the other side. Others count nothing. With s and c the weights of supported and contradicted
    findings, 1 for an asserted finding and `DENIAL_WEIGHT` for a supported denial, the score is (s - c) / (s + c + 1).
    So each further fact adds less, and a reasoning without facts scores 0.
    """
    supported = contradicted = 0.0
    for finding in findings:
        credits = [value for truth in report if (value := credit(finding, truth)) is not None]
        best = max(credits, default=0.0)
        if (any(contradicts(finding, truth) for truth in report) and best < 1.0) or best < 0:
            contradicted += 1.0
        elif best > 0:
            supported += best * (1.0 if finding.present else DENIAL_WEIGHT)
    return (supported - contradicted) / (supported + contradicted + 1.0)

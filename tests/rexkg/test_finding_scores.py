"""Scores of findings, each derived by hand."""

from __future__ import annotations

import itertools

import pytest

from ReXKG.finding_scores import contradictions, contradicts, credit, findings_score, report_score, same_finding
from ReXKG.findings import StatedFinding


def make(text: str) -> StatedFinding:
    """A finding from "+effusion left lower 1 new": polarity and name, then attributes in any order."""
    name, *words = text.split()
    sides = frozenset(word for word in words if word in ("left", "right"))
    zones = frozenset(word for word in words if word in ("upper", "mid", "lower"))
    severity = next((int(word) for word in words if word.isdigit()), None)
    course = next((w for w in words if w in ("new", "stable", "increased", "decreased", "resolved")), None)
    return StatedFinding(name[1:], name[0] == "+", sides, zones, severity, course, is_earlier="earlier" in words)


def findings(text: str) -> list[StatedFinding]:
    return [make(part) for part in text.split(", ")] if text else []


# finding, of the reference, credit. 0.4 for the name and 0.6 for the mean of the attributes that the reference states.
CREDITS = [
    ("+effusion", "+effusion", 1.0),
    ("+effusion", "+edema", None),
    ("-effusion", "+effusion", -1.0),
    ("+effusion right", "+effusion left", -0.5),
    ("+effusion", "+effusion left", 0.4 + 0.6 * 0.25),  # the side is left out
    ("+effusion left", "+effusion left 1", 0.4 + 0.6 * (1 + 0.25) / 2),
    ("+effusion left 3", "+effusion left 1", 0.4 + 0.6 * (1 + 0) / 2),  # severities two apart
    ("+effusion left 2", "+effusion left 1", 0.4 + 0.6 * (1 + 0.5) / 2),
    ("+nodule left upper", "+nodule left lower", 0.4 + 0.6 * (1 + 0) / 2),
    ("+effusion stable", "+effusion increased", 0.4),
    ("+effusion left 1", "+effusion", 1.0),  # more than the reference says is not held against an assertion
    ("-effusion", "-effusion", 1.0),
    ("-effusion right", "-effusion", 0.5),  # a narrower denial
    ("-effusion left", "+effusion right", None),  # both may be true
    ("+effusion earlier", "+effusion", None),
    ("+tube", "+tube", 1.0),
]


@pytest.mark.parametrize(("own", "truth", "expected"), CREDITS)
def test_credit_of_a_finding(own, truth, expected):
    value = credit(make(own), make(truth))
    assert value == (None if expected is None else pytest.approx(expected))


# findings, reference, score
SCORES = [
    ("", "+effusion", 0.0),  # nothing to say earns nothing
    ("", "", 0.0),
    ("+effusion", "+effusion", 1.0),
    ("-effusion", "+effusion", -1.0),
    ("+effusion right", "+effusion left", -0.5),
    ("+effusion, +edema", "+effusion", (2 - 0.25) / 3),
    ("+effusion", "+effusion, +edema", 2 / 3),
    ("+edema", "+effusion", -0.25 / 2),
    ("+edema", "", -0.25),  # invented beside an empty reference
    ("+effusion, -effusion", "+effusion", (2 - 1) / 3),  # the contradiction costs as much as a wrong polarity
]


@pytest.mark.parametrize(("own", "truth", "expected"), SCORES)
def test_score_of_findings(own, truth, expected):
    assert findings_score(findings(own), findings(truth)) == pytest.approx(expected)


def test_repeated_statements_cost():
    # 2 * 1 / (1 + 1 + 2)
    assert findings_score(findings("+effusion"), findings("+effusion"), repeated=2) == pytest.approx(0.5)


def test_a_wrong_claim_costs_more_than_an_omission():
    truth = findings("+effusion left 1")
    values = [findings_score(findings(own), truth) for own in ("-effusion", "+effusion right 1", "", "+effusion")]
    assert values == sorted(values)
    assert len(set(values)) == 4


def best_assignment(own, truth) -> float:
    """The highest sum of credits over all ways to pair findings, by trying each."""
    longer, shorter = (own, truth) if len(own) >= len(truth) else (truth, own)
    best = 0.0
    for chosen in itertools.permutations(longer, len(shorter)):
        pairs = zip(chosen, shorter, strict=True) if longer is own else zip(shorter, chosen, strict=True)
        best = max(best, sum(value for pair in pairs if (value := credit(*pair)) is not None and value > 0))
    return best


@pytest.mark.parametrize("number", range(20))
def test_pairs_are_the_best_ones_on_distinct_names(number):
    import random

    rng = random.Random(number)
    names = rng.sample(["effusion", "edema", "nodule", "mass"], 3)
    own = [make(f"+{name} {rng.choice(['left', 'left 1', ''])}") for name in names]
    truth = [make(f"+{name} left {rng.choice(['1', '2', ''])}") for name in names[: rng.randrange(1, 4)]]
    total = 2 * best_assignment(own, truth) - 0.25 * (len(own) - len(truth))
    assert findings_score(own, truth) == pytest.approx(total / (len(own) + len(truth)))


CONTRADICTIONS = [
    ("+effusion", "-effusion", True),
    ("+effusion left", "-effusion", True),
    ("+effusion left", "-effusion right", False),
    ("+effusion", "-effusion right", False),
    ("+nodule stable", "-nodule new", False),
    ("+effusion", "-effusion resolved", True),
    ("+effusion earlier", "-effusion resolved", False),
    ("+effusion left 1", "+effusion left 3", True),
    ("+effusion left 1", "+effusion right 3", False),
    ("+effusion increased", "+effusion decreased", True),
    ("-effusion", "-effusion", False),
    ("+effusion", "-edema", False),
]


@pytest.mark.parametrize(("first", "second", "expected"), CONTRADICTIONS)
def test_contradictions_are_symmetric(first, second, expected):
    pair = make(first), make(second)
    assert contradicts(*pair) is contradicts(*reversed(pair)) is expected
    assert contradictions(pair) == expected


def test_no_other_abnormality_contradicts_nothing():
    assert contradictions(findings("+effusion, -abnormality")) == 0


# findings, report, score: (s - c) / (s + c + 1)
REPORTS = [
    ("", "+effusion", 0.0),
    ("+effusion", "+effusion left", (0.4 + 0.6 * 0.25) / (0.4 + 0.6 * 0.25 + 1)),
    ("+effusion", "+effusion", 1 / 2),
    ("+effusion, +edema", "+effusion", 1 / 2),  # edema is not mentioned and costs nothing
    ("+effusion, +edema", "+effusion, +edema", 2 / 3),
    ("-effusion", "-effusion", 0.25 / 1.25),  # a denial is cheap
    ("-effusion", "+effusion", -1 / 2),
    ("+effusion right", "+effusion left", -1 / 2),
    ("+effusion left", "+effusion left, +effusion right", 1 / 2),
    ("+effusion, -edema", "+effusion, +edema", (1 - 1) / 3),
]


@pytest.mark.parametrize(("own", "report", "expected"), REPORTS)
def test_score_against_a_report(own, report, expected):
    assert report_score(findings(own), findings(report)) == pytest.approx(expected)


def test_names_match_by_their_head():
    assert same_finding("tube", "endotracheal tube")
    assert not same_finding("chest tube", "endotracheal tube")

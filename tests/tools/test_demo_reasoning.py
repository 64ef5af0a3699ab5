"""Truth of the reasoning and of the answers in the demo world.

The judge of sentences knows the facts, and uses none of the code that writes the sentences.
"""

from __future__ import annotations

import re
from collections import Counter

import pytest

from tests.support.demo_records import thoughts
from tools.demo_world.dataset import World
from tools.demo_world.facts import DEVICES, FINDING_KINDS, Finding, Region, Study, possible_in

THINGS = (*FINDING_KINDS, *DEVICES)
SEVERITIES = ("small", "moderate", "large", "mild", "severe")


def one(options: tuple[str, ...], text: str) -> str | None:
    """The only option that the text holds as a word."""
    found = [option for option in options if re.search(rf"\b{option}\b", text)]
    assert len(found) <= 1, text
    return found[0] if found else None


def region_in(text: str) -> Region | None:
    match = re.search(r"(left|right) (?:(upper|mid|lower) lung zone|lung\b(?! base))", text)
    return Region(match[1], match[2]) if match else None


def true_of(sentence: str, study: Study) -> bool:
    """Truth of a sentence about one study."""
    text = sentence.lower()
    if "heart size is normal" in text or "silhouette is normal" in text:
        return not study.shows("cardiomegaly")
    if " view" in text:
        return re.search(rf"\b{study.view} view\b", text) is not None
    if "breast" in text:
        female = study.sex == "f"
        return bool(re.search(r"\bfemale\b", text)) == female and ("no breast" in text or "without" in text) != female
    negative = re.search(r"\bno\b", text) is not None
    if "device" in text:
        return negative and not study.devices
    region = region_in(text)
    if "clear" in text:
        return not study.within(region)
    if "abnormality" in text or "no finding" in text:
        return negative and not (study.within(region) if region else study.findings)
    things = [thing for thing in THINGS if thing in text]
    assert things, text
    if negative:
        side = one(("left", "right"), text)
        return not any(is_there(study, thing, region, side) for thing in things)
    (thing,) = things
    if thing in DEVICES:
        return thing in study.devices
    finding = study.find(thing)
    properties = (finding.side, finding.zone, finding.severity) if finding else ()
    said = (one(("left", "right"), text), one(("upper", "mid", "lower"), text), one(SEVERITIES, text))
    return finding is not None and all(a in (None, b) for a, b in zip(said, properties, strict=True))


def is_there(study: Study, thing: str, region: Region | None, side: str | None) -> bool:
    if thing in DEVICES:
        return thing in study.devices
    finding = study.find(thing)
    if finding is None:
        return False
    return finding in study.within(region) if region else side in (None, finding.side)


def true_of_pair(sentence: str, before: Study, after: Study) -> bool:
    """Truth of a sentence about two studies."""
    text = sentence.lower()
    if "no finding has resolved" in text:
        return {f.kind for f in before.findings} <= {f.kind for f in after.findings}
    if "no new finding" in text:
        return {f.kind for f in after.findings} <= {f.kind for f in before.findings}
    things = [thing for thing in THINGS if thing in text]
    change = one(("new", "resolved", "increased", "decreased", "stable", "placed", "removed", "both", "either"), text)
    if change is None:
        return true_of(sentence, after)
    (thing,) = things
    was, present = before.shows(thing), after.shows(thing)
    old, new = before.find(thing), after.find(thing)
    side = one(("left", "right"), text)
    if side and any(finding and finding.side != side for finding in (old, new)):
        return False
    if change in ("increased", "decreased", "stable"):
        order = {"small": 0, "mild": 0, "moderate": 1, "large": 2, "severe": 2, None: 0}
        grew = order[new.severity] - order[old.severity]
        return {"increased": grew > 0, "decreased": grew < 0, "stable": grew == 0}[change]
    return {
        "new": present and not was, "placed": present and not was, "resolved": was and not present,
        "removed": was and not present, "both": was and present, "either": not was and not present,
    }[change]  # fmt: skip


@pytest.fixture(scope="module")
def asked(demo_world: World) -> list[tuple[dict, list[Study]]]:
    """Every record of every file with its one or two studies."""
    by_image = {study.image_id: study for study in demo_world.studies}
    pairs = []
    for record in (record for records in demo_world.files.values() for record in records):
        names = record.get("image_ids") or [name.removesuffix(".png") for name in record["images"]]
        pairs.append((record, [by_image[name] for name in names]))
    return pairs


def test_every_sentence_of_the_reasoning_is_true(asked: list[tuple[dict, list[Study]]]) -> None:
    for record, studies in asked:
        judge = true_of_pair if len(studies) == 2 else true_of
        for sentence in re.findall(r"[^.]+\.", thoughts(record)):
            assert judge(sentence.strip(), *studies), (sentence, studies)


def test_the_judge_of_sentences_rejects_falsehoods() -> None:
    effusion = Finding("pleural effusion", "left", "lower", "small")
    study = Study("s", "s", "s", 0, 0, "ap", "f", (effusion,), ("pacemaker",))
    clean = Study("s", "s", "s", 0, 0, "pa", "m")
    rows = [
        ("There is a small left pleural effusion.", True),
        ("There is a small right pleural effusion.", False),
        ("There is a large left pleural effusion.", False),
        ("There is no pleural effusion.", False),
        ("No pleural effusion is seen on the right.", True),
        ("No abnormality is seen in the left lower lung zone.", False),
        ("The right lung is clear.", True),
        ("There is mild cardiomegaly.", False),
        ("No device is seen.", False),
        ("This is a pa view of the chest.", False),
        ("No breast shadows are seen in this male patient.", False),
    ]
    for sentence, expected in rows:
        assert true_of(sentence, study) is expected, sentence
    assert true_of_pair("There is new left pleural effusion.", clean, study)
    assert not true_of_pair("The left pleural effusion has resolved.", clean, study)
    assert not true_of_pair("The pacemaker was removed in the interval.", clean, study)


def answer_from_facts(record: dict, studies: list[Study]) -> list[str] | None:
    """The answer worked out from the question's text and the facts, for the question types that allow it simply."""
    study, kind, text = studies[-1], record["question_type"], record["question"].lower()
    things = [thing for thing in THINGS if thing in text]
    if kind in ("verify_presence", "verify_side", "region_presence"):
        side = one(("left", "right"), text) if kind == "verify_side" else None
        return ["yes" if is_there(study, things[0], region_in(text), side) else "no"]
    if kind == "region_abnormality":
        return ["yes" if study.within(region_in(text)) else "no"]
    if kind == "region_query":
        return [finding.kind for finding in study.within(region_in(text))]
    if kind in ("choose_finding", "region_choose"):
        listed = sorted(things, key=text.index)
        return [thing for thing in listed if is_there(study, thing, region_in(text), None)]
    if kind == "choose_side":
        return [study.find(things[0]).side]
    if kind in ("choose_severity", "query_severity"):
        return [study.find(things[0]).severity]
    if kind == "query_device":
        return list(study.devices)
    if kind.endswith("_plane") and not kind.startswith("verify"):
        return [study.view]
    if kind == "compare_image":
        first, second = (s.shows(things[0]) for s in studies)
        return {(1, 1): ["both"], (1, 0): ["first"], (0, 1): ["second"], (0, 0): []}[first, second]
    if kind == "compare_query_new":
        return [f.kind for f in study.findings if not studies[0].find(f.kind)]
    return None


def test_answers_follow_from_the_facts(asked: list[tuple[dict, list[Study]]]) -> None:
    checked = Counter()
    for record, studies in asked:
        expected = answer_from_facts(record, studies)
        if expected is not None:
            assert record["answer"] == expected, record
            checked[record["question_type"]] += 1
    assert len(checked) >= 13


def test_a_zone_of_a_lung_shows_at_most_one_finding(demo_world: World) -> None:
    for study in demo_world.studies:
        for side in ("left", "right"):
            for zone in ("upper", "mid", "lower"):
                assert len(study.within(Region(side, zone))) <= 1, study


def test_a_big_heart_leaves_only_fluid_at_the_left_base(demo_world: World) -> None:
    for study in demo_world.studies:
        heart = study.find("cardiomegaly")
        if heart and heart.severity != "mild":
            assert {finding.kind for finding in study.within(Region("left", "lower"))} <= {"pleural effusion"}


@pytest.mark.parametrize(
    ("kind", "zone", "expected"),
    [
        ("pleural effusion", "lower", True),
        ("pleural effusion", "mid", True),  # a large one
        ("pleural effusion", "upper", False),
        ("pneumothorax", "mid", True),  # a large one
        ("pneumothorax", "lower", False),
        ("atelectasis", "mid", False),
        ("nodule", None, True),
        ("cardiomegaly", None, False),
    ],
)
def test_region_questions_only_name_what_could_be_there(kind: str, zone: str | None, expected: bool) -> None:
    assert possible_in(FINDING_KINDS[kind], Region("left", zone)) is expected

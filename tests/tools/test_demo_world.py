"""The demo world: deterministic, split by patient, true in word and picture, and hard to guess without looking."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from swift.utils.errors import UserError
from tools.demo_world.build import VERSION, make_demo, make_policy
from tools.demo_world.dataset import EVALUATION_FILES, World, WorldConfig, build_world
from tools.demo_world.facts import DEVICES, FINDING_KINDS, Finding, Region, Study, possible_in
from tools.demo_world.render import draw_study
from tools.make_demo import main

TINY = WorldConfig(seed=3, patients=(4, 2, 4), questions=(3, 2), pair_questions=(2, 1), eval_questions=6)
EVALUATION_FIELDS = {
    "idx", "question", "answer", "explanation", "image_ids", "subject_id", "study_id", "semantic_type", "content_type",
    "question_type", "answer_type", "split", "template",
}  # fmt: skip


@pytest.fixture(scope="module")
def world() -> World:
    """The default world without its pictures: a few seconds."""
    return build_world(WorldConfig())


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "world"
    make_demo(folder, TINY, workers=1)
    return folder


def evaluation(world: World) -> list[dict]:
    return [record for path in EVALUATION_FILES.values() for record in world.files[path]]


def solution(record: dict) -> str:
    return record.get("explanation") or record.get("solution") or record["messages"][1]["content"]


def thoughts(record: dict) -> str:
    tagged = re.fullmatch(r"<think>(.*)</think><answer>.*</answer>", solution(record))
    return (tagged or re.fullmatch(r"(.*) So the answer is .*\.", solution(record)))[1]


def digests(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# Files


def test_same_seed_gives_same_bytes_whatever_the_number_of_workers(tiny: Path, tmp_path: Path) -> None:
    make_demo(tmp_path / "again", TINY, workers=2)
    assert digests(tmp_path / "again") == digests(tiny)


def test_another_seed_gives_another_world(tiny: Path, tmp_path: Path) -> None:
    other = make_demo(tmp_path / "other", replace(TINY, seed=4), workers=1)
    assert other["sha256"] != json.loads((tiny / "manifest.json").read_text())["sha256"]


def test_a_world_with_the_same_arguments_is_not_made_twice(tiny: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in tiny.rglob("*")}
    make_demo(tiny, TINY, workers=1)
    assert {path: path.stat().st_mtime_ns for path in tiny.rglob("*")} == before


def test_a_folder_that_is_not_a_demo_world_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"name": "a web page, not a demo world"}')
    with pytest.raises(UserError, match=r"manifest\.json"):
        make_demo(tmp_path, TINY, workers=1)
    assert main(["--output", str(tmp_path)]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_every_image_named_exists_and_is_a_gray_portrait(tiny: Path) -> None:
    names = set()
    for path in (tiny / "annotations").rglob("*.json"):
        for record in json.loads(path.read_text(encoding="utf-8")):
            names |= set(record.get("images", [f"{image_id}.png" for image_id in record.get("image_ids", [])]))
    assert names <= {path.name for path in (tiny / "images").iterdir()}
    for path in (tiny / "images").iterdir():
        with Image.open(path) as image:
            assert (image.size, image.mode) == ((448, 512), "L")
        assert path.stat().st_size < 120_000


# Records


def test_training_records_are_form_b(world: World) -> None:
    for record in world.files["train.json"]:
        user, assistant = record["messages"]
        assert (user["role"], assistant["role"]) == ("user", "assistant")
        assert user["content"] == record["question"]
        assert {"images", "answer", "idx", "subject_id", "study_id", "semantic_type", "content_type"} <= set(record)
        assert "solution" not in record


def test_pool_records_are_form_a(world: World) -> None:
    for record in world.files["valid.json"]:
        assert [message["role"] for message in record["messages"]] == ["user"]
        assert {"images", "solution", "answer", "idx", "subject_id", "study_id"} <= set(record)
        assert "is_correct" not in record


def test_evaluation_records_have_every_field(world: World) -> None:
    for record in evaluation(world):
        assert set(record) == EVALUATION_FIELDS
    assert all(len(r["image_ids"]) == 2 for r in world.files[EVALUATION_FILES["compare"]])
    assert all(len(r["image_ids"]) == 1 for r in world.files[EVALUATION_FILES["basic"]])
    assert [len(world.files[path]) for path in EVALUATION_FILES.values()] == [200, 200, 200]


def test_idx_is_unique_over_all_files(world: World) -> None:
    indices = [record["idx"] for records in world.files.values() for record in records]
    assert len(set(indices)) == len(indices)


def test_no_patient_is_in_two_splits(world: World) -> None:
    splits = defaultdict(set)
    for records in world.files.values():
        for record in records:
            splits[record["subject_id"]].add(record["split"])
    assert {len(names) for names in splits.values()} == {1}


def test_answers_are_lower_case_without_commas_and_repeated_in_the_solution(world: World) -> None:
    for record in (record for records in world.files.values() for record in records):
        assert all(item == item.lower() and "," not in item for item in record["answer"])
        answer = ", ".join(record["answer"])
        assert solution(record).endswith((f"</think><answer>{answer}</answer>", f" So the answer is {answer}."))


def test_only_what_sft_learns_of_comparisons_is_partly_prose(world: World) -> None:
    prose = {path: [not solution(r).startswith("<think>") for r in records] for path, records in world.files.items()}
    train = prose.pop("train.json")
    pairs = [flag for flag, record in zip(train, world.files["train.json"], strict=True) if len(record["images"]) == 2]
    assert sum(pairs) == sum(train)
    assert 0.7 < sum(pairs) / len(pairs) < 0.8  # 0.75 of some thousand
    assert not any(flag for flags in prose.values() for flag in flags)


def test_sft_reasoning_wanders_and_references_do_not(world: World) -> None:
    """Nearly every answer rests on one fact; 0.6 of the SFT items add one more."""

    def mean_sentences(records: list[dict]) -> float:
        return sum(thoughts(record).count(".") for record in records) / len(records)

    references = mean_sentences([*world.files["valid.json"], *evaluation(world)])
    assert references < 1.2
    assert mean_sentences(world.files["train.json"]) == pytest.approx(references + 0.6, abs=0.1)


# Language and balance


def words(records: list[dict]) -> set[str]:
    return {word for r in records for word in re.findall(r"[\w-]+|[^\w\s]", f"{r['question']} {solution(r)}")}


def test_evaluation_uses_known_words_in_new_wordings(world: World) -> None:
    train = world.files["train.json"]
    for records in (world.files["valid.json"], evaluation(world)):
        assert words(records) <= words(train)
        assert {record["template"] for record in records} - {record["template"] for record in train}
    assert len(words(train)) < 400


def test_some_combinations_of_findings_are_new_in_evaluation(world: World) -> None:
    combinations = defaultdict(set)
    trained = {record["subject_id"] for record in world.files["train.json"]}
    for study in world.studies:
        combinations[study.subject_id in trained].add((study.findings, study.devices))
    assert len(combinations[False] - combinations[True]) > 0.2 * len(combinations[False])


def test_yes_and_no_are_equally_frequent(world: World) -> None:
    shares = defaultdict(list)
    for record in world.files["train.json"]:
        if record["semantic_type"] == "verify":
            shares[record["question_type"]].append(record["answer"] == ["yes"])
    for name, yes in shares.items():
        assert abs(np.mean(yes) - 0.5) < 0.05, name
    yes = [record["answer"] == ["yes"] for record in evaluation(world) if record["semantic_type"] == "verify"]
    assert abs(np.mean(yes) - 0.5) < 0.06


def test_the_most_frequent_answer_to_a_question_is_wrong_more_often_than_right(world: World) -> None:
    by_text, by_type = defaultdict(Counter), defaultdict(Counter)
    for record in world.files["train.json"]:
        by_text[record["question"]][tuple(record["answer"])] += 1
        by_type[record["question_type"]][tuple(record["answer"])] += 1

    def right(record: dict) -> bool:
        counts = by_text.get(record["question"]) or by_type[record["question_type"]]
        guess = counts.most_common(1)[0][0]
        return bool(set(guess) & set(record["answer"])) or not (guess or record["answer"])

    for records in (world.files["valid.json"], evaluation(world)):
        assert np.mean([right(record) for record in records]) < 0.45


# Truth of the reasoning, by a reader that knows the facts and none of the code that wrote the sentences

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
    """Whether a sentence about one study is true of it."""
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
    """Whether a sentence about two studies is true of them."""
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
def asked(world: World) -> list[tuple[dict, list[Study]]]:
    """Every record of every file with its one or two studies."""
    by_image = {study.image_id: study for study in world.studies}
    pairs = []
    for record in (record for records in world.files.values() for record in records):
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


def test_a_zone_of_a_lung_shows_at_most_one_finding(world: World) -> None:
    for study in world.studies:
        for side in ("left", "right"):
            for zone in ("upper", "mid", "lower"):
                assert len(study.within(Region(side, zone))) <= 1, study


def test_a_big_heart_leaves_only_fluid_at_the_left_base(world: World) -> None:
    for study in world.studies:
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


# Pictures

BLANK = Study("demo-0", "demo-0", "demo-0", patient=5, index=5, view="pa", sex="m")

# What is drawn, the box (x0, y0, x1, y1) of the film where it must show, and how the box's mean level must change.
# The patient's left is on the right of the film: x > 224.
VISIBLE = [
    ({"findings": (Finding("pleural effusion", "left", "lower", "small"),)}, (345, 290, 385, 320), 15),
    ({"findings": (Finding("pleural effusion", "right", "lower", "large"),)}, (80, 220, 150, 290), 50),
    ({"findings": (Finding("pneumothorax", "right", "upper", "small"),)}, (120, 65, 165, 85), -8),
    ({"findings": (Finding("pneumothorax", "left", "upper", "large"),)}, (300, 90, 345, 180), -12),
    ({"findings": (Finding("consolidation", "right", "upper"),)}, (110, 95, 160, 140), 25),
    ({"findings": (Finding("consolidation", "left", "lower"),)}, (320, 250, 360, 290), 25),
    ({"findings": (Finding("nodule", "left", "mid"),)}, (300, 165, 365, 235), 8),
    ({"findings": (Finding("atelectasis", "right", "lower"),)}, (80, 255, 140, 300), 15),
    ({"findings": (Finding("cardiomegaly", None, None, "mild"),)}, (315, 250, 330, 300), 30),
    ({"findings": (Finding("pulmonary edema", None, "mid", "severe"),)}, (110, 170, 170, 250), 20),
    ({"devices": ("endotracheal tube",)}, (210, 40, 238, 100), 20),
    ({"devices": ("pacemaker",)}, (350, 75, 390, 115), 30),
]  # fmt: skip


@pytest.mark.parametrize(("facts", "box", "change"), VISIBLE, ids=lambda value: str(value)[:60])
def test_a_finding_shows_where_it_is_and_nowhere_far_away(facts: dict, box: tuple, change: float) -> None:
    x0, y0, x1, y1 = box
    drawn = replace(BLANK, **facts)
    difference = draw_study(drawn, seed=0).astype(float) - draw_study(BLANK, seed=0)
    inside = difference[y0:y1, x0:x1].mean()
    assert inside * np.sign(change) > abs(change)
    assert np.abs(difference[400:, :]).max() <= 1


def test_sides_are_the_patients_sides() -> None:
    for side, half in (("left", slice(224, 448)), ("right", slice(0, 224))):
        drawn = replace(BLANK, findings=(Finding("consolidation", side, "mid"),))
        difference = draw_study(drawn, seed=0).astype(float) - draw_study(BLANK, seed=0)
        assert np.abs(difference[:, half]).sum() > 0.95 * np.abs(difference).sum()


def test_view_and_sex_show() -> None:
    blank = draw_study(BLANK, seed=0).astype(float)
    ap = draw_study(replace(BLANK, view="ap"), seed=0)
    female = draw_study(replace(BLANK, sex="f"), seed=0)
    assert (ap[10:60, 10:70] > 200).sum() > 50
    assert (blank[10:60, 10:70] > 200).sum() == 0
    assert (female - blank)[290:320, 80:130].mean() > 10


def test_a_later_film_differs_and_so_does_another_patients_body() -> None:
    later = replace(BLANK, index=6)
    stranger = replace(BLANK, index=6, patient=9)
    first, second, other = (draw_study(study, seed=0).astype(float) for study in (BLANK, later, stranger))
    assert not np.array_equal(first, second)
    assert not np.array_equal(second, other)


def test_a_policy_that_is_there_is_not_made_again(tiny: Path, tmp_path: Path) -> None:
    world = json.loads((tiny / "manifest.json").read_text())["sha256"]
    (tmp_path / "demo_policy.json").write_text(json.dumps({"kind": "demo policy", "version": VERSION, "world": world}))
    make_policy(tmp_path, tiny, TINY)
    assert [path.name for path in tmp_path.iterdir()] == ["demo_policy.json"]

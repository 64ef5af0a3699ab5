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

from swift.utils.digests import value_digest
from swift.utils.errors import UserError
from tests.support.demo_records import solution, thoughts
from tools.demo_world.build import VERSION, make_demo, make_policy
from tools.demo_world.dataset import EVALUATION_FILES, World, WorldConfig, build_world
from tools.make_demo import main

TINY = WorldConfig(seed=3, patients=(4, 2, 4), questions=(3, 2), pair_questions=(2, 1), eval_questions=6)
EVALUATION_FIELDS = {
    "idx", "question", "answer", "explanation", "image_ids", "subject_id", "study_id", "semantic_type", "content_type",
    "question_type", "answer_type", "split", "template",
}  # fmt: skip


@pytest.fixture(scope="module")
def world(demo_world: World) -> World:
    return demo_world


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "world"
    make_demo(folder, TINY, workers=1)
    return folder


def evaluation(world: World) -> list[dict]:
    return [record for path in EVALUATION_FILES.values() for record in world.files[path]]


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


# Kinds of world


def annotations_digest(config: WorldConfig) -> str:
    return value_digest(build_world(config).files)


def test_the_usual_world_asks_what_it_asked_before_there_were_kinds() -> None:
    """The digest is that of 2026-11-26."""
    assert annotations_digest(TINY) == "82ac14f488bf0e2f"


def shares_of(config: WorldConfig) -> tuple[float, float]:
    """Share of prose among the comparisons for SFT, and findings per study."""
    world = build_world(config)
    pairs = [record for record in world.files["train.json"] if len(record["images"]) == 2]
    prose = sum(not solution(record).startswith("<think>") for record in pairs) / max(1, len(pairs))
    return prose, float(np.mean([len(study.findings) for study in world.studies]))


def test_prose_and_prevalence_are_as_asked_and_change_nothing_else() -> None:
    """A first study has 7 x 0.15 = 1.05 findings, less those that find no free place."""
    usual = WorldConfig(seed=3, patients=(120, 20, 30), questions=(3, 2), eval_questions=40)
    tagged, common = shares_of(replace(usual, prose=0.0))
    assert tagged == 0.0
    assert shares_of(replace(usual, prose=1.0)) == (1.0, common)
    _, rare = shares_of(replace(usual, prevalence=0.15))
    assert 0.8 < rare < 1.2 < common
    assert build_world(replace(usual, prose=0.0)).studies == build_world(usual).studies


def test_a_careless_writer_overlooks_what_the_other_one_sees() -> None:
    """One that overlooks everything sees nothing present, but names the view and the sex, and knows the answer to what
    takes a finding for granted. It answers the more often by "no", the more it overlooks."""
    config = WorldConfig(seed=3, patients=(60, 2, 4), questions=(6, 2), eval_questions=6)
    truthful = build_world(config).files
    shares = []
    for share in (0.01, 0.5, 1.0):
        files = build_world(replace(config, careless=share)).files
        careless = files.pop("careless.json")
        assert [r["messages"] for r in files["train.json"]] == [r["messages"] for r in truthful["train.json"]]
        asked = [r for r in careless if r["question_type"] in ("verify_presence", "region_presence")]
        shares.append(sum(r["answer"] == ["no"] for r in asked) / len(asked))
    assert 0.35 < shares[0] < 0.65
    assert shares[0] < shares[1] < shares[2] == 1.0
    assert all(r["answer"] for r in careless if r["question_type"] in ("query_plane", "choose_side"))
    assert "careless.json" not in truthful


@pytest.mark.parametrize("prevalence", [0.0, 1.0])
def test_worlds_of_healthy_and_of_very_ill_patients_can_be_asked_about(prevalence: float) -> None:
    config = WorldConfig(seed=3, patients=(10, 10, 30), questions=(3, 2), eval_questions=20, prevalence=prevalence)
    world = build_world(config)
    assert [len(world.files[path]) for path in EVALUATION_FILES.values()] == [20, 20, 20]


def test_the_kind_of_world_is_in_the_manifest_and_another_kind_is_made_anew(tmp_path: Path) -> None:
    sizes = ["--patients", "1", "0", "1", "--questions", "1", "1", "--eval_questions", "1", "--workers", "1"]
    kind = ["--prose", "0.1", "--prevalence", "0.2", "--style", "shifted"]
    assert main(["--output", str(tmp_path / "world"), *sizes]) == 0
    first = json.loads((tmp_path / "world" / "manifest.json").read_text())
    assert main(["--output", str(tmp_path / "world"), *sizes, *kind]) == 0
    second = json.loads((tmp_path / "world" / "manifest.json").read_text())
    assert {"prose": 0.1, "prevalence": 0.2, "style": "shifted"}.items() <= second["arguments"].items()
    assert first["sha256"] != second["sha256"]


@pytest.mark.parametrize("words", [["--prose", "1.5"], ["--prevalence", "-0.1"], ["--careless", "2"]])
def test_a_share_outside_0_to_1_is_refused_in_one_line(words: list[str], capsys: pytest.CaptureFixture) -> None:
    assert main([*words, "--output", "/nowhere"]) == 2
    assert "is not a share" in capsys.readouterr().err


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


def test_a_policy_that_is_there_is_not_made_again(tiny: Path, tmp_path: Path) -> None:
    world = json.loads((tiny / "manifest.json").read_text())["sha256"]
    (tmp_path / "demo_policy.json").write_text(json.dumps({"kind": "demo policy", "version": VERSION, "world": world}))
    make_policy(tmp_path, tiny, TINY)
    assert [path.name for path in tmp_path.iterdir()] == ["demo_policy.json"]

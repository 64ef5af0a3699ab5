"""Patients of questions: one patient however files write it, in sampling, splits, intervals and the image control."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from PIL import Image

from swift.cli.data import split_by_patient
from swift.evaluation.controls import shuffle_images
from swift.llm.dataset import Record
from swift.llm.images.source import ImageSource
from tools.sample_data import main as sample
from utils.intervals import mean_interval
from utils.questions import group_rows, patient_of, patients, question_id, question_key, question_name

SAME = [10000032, 10000032.0, "10000032", "10000032.0", "p10000032", "P10000032", " 10000032 ", "p10000032.0"]
NOBODY = [None, math.nan, "", "  ", "nan", "NaN", "None", "null", True, [], {}]
OTHERS = [("case-7", "case-7"), (" case-7 ", "case-7"), ("p", "p"), ("pp1", "pp1"), ("12a", "12a"), (1.5, "1.5"),
          (0, "0"), ("007", "007"), ("p7-s2", "p7-s2")]  # fmt: skip


@pytest.mark.parametrize("written", SAME)
def test_a_patient_is_the_same_however_it_is_written(written):
    assert patient_of({"subject_id": written}) == "10000032"


@pytest.mark.parametrize("written", NOBODY)
def test_a_missing_value_is_nobody(written):
    assert patient_of({"subject_id": written}) is None
    assert patient_of({}) is None


@pytest.mark.parametrize(("written", "name"), OTHERS)
def test_other_texts_stand_for_themselves(written, name):
    assert patient_of({"subject_id": written}) == name


def test_intervals_draw_one_patient_for_all_ways_to_write_it_and_each_nobody_alone():
    results = [{"subject_id": value} for value in [*SAME, *NOBODY, 5]] + [{}]
    clusters = patients(results)
    assert len(set(clusters[: len(SAME)])) == 1
    assert len(set(clusters)) == 1 + len(NOBODY) + 1 + 1
    # One patient with half of the answers right: every resample is the same. As eight patients they would differ.
    values = [float(number % 2) for number in range(len(SAME))]
    interval = mean_interval(values, clusters[: len(SAME)])
    assert (interval.lo, interval.hi) == (0.5, 0.5)


def record(number: int, subject: object, *images: str) -> Record:
    sources = tuple(ImageSource.from_path(f"{name}.png") for name in images)
    turns = ({"role": "user", "content": "?"},)
    return Record(sources, turns, None, {"subject_id": subject, "idx": number}, f"file record {number}")


def test_a_split_keeps_a_patient_on_one_side_and_parts_records_of_nobody():
    records = [record(number, subject) for number, subject in enumerate([*SAME, *[None] * 40, *[math.nan] * 40])]
    for seed in range(20):
        train, held_out = split_by_patient(records, 0.5, seed)
        sides = [any(one.columns["subject_id"] in SAME for one in side) for side in (train, held_out)]
        assert sorted(sides) == [False, True]
        assert 20 < len(held_out) < 70  # with a null that is one patient, all of them would be on one side
        assert sorted(one.columns["idx"] for one in [*train, *held_out]) == list(range(len(records)))


@pytest.mark.parametrize("seed", range(5))
def test_the_image_control_never_shows_a_patient_their_own_images(seed):
    records = [record(number, subject, f"own-{number}") for number, subject in enumerate(SAME)]
    records += [record(100 + number, number, f"other-{number}") for number in range(20)]
    for before, after in zip(records, shuffle_images(records, seed), strict=True):
        if before.columns["subject_id"] in SAME:
            assert after.images[0].name.startswith("other-")


@pytest.mark.parametrize("nobody", [None, math.nan, "", "nan"])
def test_the_image_control_gives_a_question_of_nobody_another_image(nobody):
    """Two of nobody's questions with the same image, one with the image of patient 5, and others' with their own."""
    records = [record(0, nobody, "a"), record(1, nobody, "a"), record(2, nobody, "five"), record(3, 5, "five")]
    records += [record(4 + number, nobody, f"own-{number}") for number in range(4)]
    for seed in range(10):
        shuffled = shuffle_images(records, seed)
        for before, after in zip(records, shuffled, strict=True):
            assert before.images[0].name != after.images[0].name
        names = [[one.images[0].name for one in side] for side in (records, shuffled)]
        assert sorted(names[0]) == sorted(names[1])


def pool_item(number: int, subject: object) -> dict:
    return {"idx": number, "subject_id": subject, "image_ids": ["film"], "question": f"Is it {number}?",
            "explanation": "<answer>yes</answer>", "question_type": "plane"}  # fmt: skip


@pytest.fixture
def data(tmp_path):
    """A data folder without annotations; ``write`` adds the file of a name."""
    (tmp_path / "annotations" / "eval").mkdir(parents=True)
    (tmp_path / "images").mkdir()
    Image.new("L", (32, 32)).save(tmp_path / "images" / "film.png")

    def write(name: str, subjects: list) -> str:
        path = tmp_path / "annotations" / name
        items = [pool_item(number, subject) for number, subject in enumerate(subjects)]
        path.write_text(json.dumps(items), encoding="utf-8")
        return str(path)

    return tmp_path, write


@pytest.mark.parametrize("evaluated", SAME)
def test_the_sampler_finds_a_patient_of_the_evaluation_however_it_is_written(data, evaluated, capsys):
    root, write = data
    write("eval/test_basic_vqa.json", [evaluated])
    flags = ["--source", write("pool.json", [*SAME, 1, 2, 3]), "--root", str(root), "--sizes", "3"]
    assert sample(flags) == 2
    assert "8 of 11 items are about 1 patients of the evaluation questions (e.g. 10000032)" in capsys.readouterr().err
    assert sample([*flags, "--shared_patients", "exclude"]) == 0
    rows = json.loads((root / "annotations" / "uniform" / "3.json").read_text())
    assert {row["subject_id"] for row in rows} == {1, 2, 3}


@pytest.mark.parametrize("nobody", NOBODY)
def test_the_sampler_refuses_records_of_nobody_and_never_counts_them_as_shared(data, nobody, capsys):
    root, write = data
    evaluation = write("eval/test_basic_vqa.json", [nobody])
    flags = ["--source", write("pool.json", [nobody, 1]), "--root", str(root), "--sizes", "2"]
    assert sample(flags) == 2
    error = capsys.readouterr().err
    assert f"{evaluation} record 0: field 'subject_id'" in error
    write("eval/test_basic_vqa.json", [7])
    assert sample(flags) == 2
    error = capsys.readouterr().err
    assert "pool.json record 0: field 'subject_id'" in error
    assert sample([*flags, "--shared_patients", "allow"]) == 0


def test_a_question_goes_by_idx_then_id_then_position():
    table = [({"idx": 3, "id": 4}, 3), ({"idx": None, "id": "x"}, "x"), ({"idx": 0}, 0), ({"id": None}, 9), ({}, 9)]
    for question, name in table:
        assert question_id(question, 9) == name
        assert question_name(question, 9) == str(name)


def test_a_question_is_the_same_by_idx_or_by_images_and_wording():
    assert question_key({"idx": 7}, "?", ["a.png"]) == question_key({"idx": "7"}, "?") == ("7", "?")
    assert question_key({"idx": 7}, "?") != question_key({"idx": 7}, "!")
    assert question_key({}, "?", ["a.png"]) == question_key({"idx": None}, "?", ["a.png"])
    assert question_key({}, "?", ["a.png"]) != question_key({}, "?", ["b.png"])


def test_groups_are_by_frequency_then_by_the_alphabet():
    kinds = ["b", "c", None, "a", "c", 1]
    groups = group_rows([{"kind": kind} for kind in kinds] + [{}], "kind")
    assert list(groups.items()) == [("c", [1, 4]), ("1", [5]), ("a", [3]), ("b", [0])]


def test_a_new_way_to_write_a_patient_does_not_change_the_shuffle():
    """The control's files of earlier evaluations stay comparable: names are only names."""
    rng = np.random.default_rng(0)
    subjects = rng.integers(0, 9, 30).tolist()
    plain, prefixed = (
        [record(number, form(subject), f"{number}") for number, subject in enumerate(subjects)]
        for form in (int, lambda subject: f"p{subject}")
    )
    images = [[one.images for one in shuffle_images(records, 3)] for records in (plain, prefixed)]
    assert images[0] == images[1]

"""Public data sets in their own layouts: brought into this one, then trained on and evaluated."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import evaluate
from swift.cli import rlhf
from swift.llm.dataset import check_records, check_seen, load_records
from tests.support.builders import rlhf_command
from tests.support.datasets.layouts import CASES, LAYOUTS, write_mimic, write_sections, write_slake, write_vqa_rad
from tools import prepare_data

EVALUATION = "eval/test_basic_vqa.json"


def prepare(name: str, source: Path, target: Path, *flags: object) -> int:
    return prepare_data.main([name, str(source), str(target), *map(str, flags)])


def records_of(target: Path, name: str = "train.json") -> list[dict]:
    return json.loads((target / "annotations" / name).read_text())


@pytest.mark.parametrize("name", LAYOUTS)
def test_three_commands_lead_from_the_downloaded_folder_to_an_evaluated_policy(name, world, tmp_path, capsys):
    source, target = LAYOUTS[name](tmp_path / "source"), tmp_path / "data"
    assert prepare(name, source, target) == 0
    flags = {"dataset": target / "annotations" / "train.json", "max_steps": 1, "per_device_train_batch_size": 4}
    assert rlhf.main(rlhf_command(world, tmp_path / "run", **flags)) == 0
    questions = target / "annotations" / EVALUATION
    words = ["--model_path", tmp_path / "run", "--annotation_file", questions, "--output_dir", tmp_path / "result"]
    assert evaluate.main([*map(str, words), "--max_new_tokens", "4", "--no_tqdm"]) == 0
    (result,) = (tmp_path / "result").glob("*_results.json")
    document = json.loads(result.read_text())
    assert document["num_samples"] == len(records_of(target, EVALUATION))
    assert all(len(row["image_paths"]) == 1 for row in document["results"])


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_record_has_its_image_and_an_answer(name, tmp_path):
    target = tmp_path / "data"
    assert prepare(name, LAYOUTS[name](tmp_path / "source"), target) == 0
    for file in (target / "annotations").rglob("*.json"):
        records = load_records([file], require_solution=True)
        check_seen(records)
        check_records(records)


def test_vqa_rad_is_split_as_published_and_a_case_is_a_patient(tmp_path):
    prepare("vqa-rad", write_vqa_rad(tmp_path / "source"), tmp_path / "data")
    train, test = records_of(tmp_path / "data"), records_of(tmp_path / "data", EVALUATION)
    assert len(train) == len(test) == 2 * CASES
    assert {record["subject_id"] for record in train} == {f"{case:04d}" for case in range(CASES)}
    assert [record["answer"] for record in train[:2]] == [["yes"], ["3"]]


def test_questions_without_a_name_of_their_own_are_named_by_their_place(tmp_path):
    source = write_vqa_rad(tmp_path / "source")
    file = source / "VQA_RAD Dataset Public.json"
    rows = json.loads(file.read_text())
    rows[1] |= {"qid": rows[0]["qid"]}
    del rows[2]["qid"]
    rows[3] |= {"answer_type": "CLOSED "}
    file.write_text(json.dumps(rows))
    prepare("vqa-rad", source, tmp_path / "data")
    records = records_of(tmp_path / "data")
    assert [record["idx"] for record in records[:4]] == [0, "train-1", "train-2", 3]
    assert records[3]["answer_type"] == "CLOSED"


@pytest.mark.parametrize(("language", "count"), [("en", CASES), ("zh", CASES), ("all", 2 * CASES)])
def test_slake_is_read_in_one_language(tmp_path, language, count):
    prepare("slake", write_slake(tmp_path / "source"), tmp_path / "data", "--language", language)
    assert [len(records_of(tmp_path / "data", name)) for name in ("train.json", "valid.json", EVALUATION)] == [
        count
    ] * 3


def test_reports_of_mimic_explain_its_answers(tmp_path):
    prepare("mimic-cxr-vqa", write_mimic(tmp_path / "source"), tmp_path / "data")
    first, second = records_of(tmp_path / "data")[:2]
    findings = "There is a small left pleural effusion."
    assert first["explanation"] == f"<think>{findings}</think><answer>yes</answer>"
    assert second["explanation"] == f"<think>{findings}</think><answer></answer>", "there is nothing to list"


def test_reports_and_images_of_mimic_may_be_elsewhere(tmp_path, capsys):
    source = write_mimic(tmp_path / "source")
    (source / "mimic-cxr-jpg").rename(tmp_path / "jpg")
    (source / "mimic-cxr-reports").rename(tmp_path / "text")
    assert prepare("mimic-cxr-vqa", source, tmp_path / "a") == 2
    assert "pass --images" in capsys.readouterr().err
    assert prepare("mimic-cxr-vqa", source, tmp_path / "a", "--images", tmp_path / "jpg") == 0
    assert "explanation" not in records_of(tmp_path / "a")[0]
    table = write_sections(tmp_path / "sections.csv")
    assert prepare("mimic-cxr-vqa", source, tmp_path / "b", "--images", tmp_path / "jpg", "--reports", table) == 0
    assert "<think>The heart is enlarged.</think>" in records_of(tmp_path / "b")[0]["explanation"]


def test_missing_images_are_counted_and_left_out_if_the_user_says_so(tmp_path, capsys):
    source = write_slake(tmp_path / "source")
    (source / "imgs" / "xmlab0" / "source.jpg").unlink()
    assert prepare("slake", source, tmp_path / "data") == 2
    assert "1 of the questions' images are missing" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()
    assert prepare("slake", source, tmp_path / "data", "--leave_out_missing") == 0
    assert "1 left out because their image is missing" in capsys.readouterr().out
    assert len(records_of(tmp_path / "data")) == CASES - 1


def test_images_are_linked_or_copied(tmp_path):
    source = write_slake(tmp_path / "source")
    prepare("slake", source, tmp_path / "linked")
    prepare("slake", source, tmp_path / "copied", "--copy_images")
    assert (tmp_path / "linked" / "images").is_symlink()
    assert not (tmp_path / "copied" / "images").is_symlink()
    assert (tmp_path / "copied" / "images" / "xmlab0" / "source.jpg").is_file()


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_folder_without_the_data_set_is_one_line(name, tmp_path, capsys):
    assert prepare(name, tmp_path, tmp_path / "data") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "name the folder of the downloaded files" in line
    assert prepare(name, tmp_path / "gone", tmp_path / "data") == 2


def test_patients_of_both_splits_are_noted(tmp_path, capsys):
    source = write_vqa_rad(tmp_path / "source")
    file = source / "VQA_RAD Dataset Public.json"
    rows = json.loads(file.read_text())
    rows[-1] |= {name: rows[0][name] for name in ("image_name", "image_case_url")}
    file.write_text(json.dumps(rows))
    assert prepare("vqa-rad", source, tmp_path / "data") == 0
    assert f"1 of the {CASES + 1} patients of the test split are in the training split" in capsys.readouterr().out

"""The command that lists patient data and writes copies without it, on a folder with all that the commands leave."""

from __future__ import annotations

import base64
import csv
import gzip
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from swift.evaluation.results import result_row
from swift.llm.dataset import Record
from tests.support.datasets.run_folders import ANSWERS, FINDINGS, PATIENTS, write_run_folder
from tests.support.report_runs import TRUTH, result, write
from tools import evaluation_report, summarize, training_report
from tools.privacy import main
from tools.redaction import documents, result_rows
from tools.redaction.check import find_leaks
from tools.redaction.copying import list_folder
from tools.redaction.names import Pseudonyms
from tools.redaction.rules import Notes, identifiers, record


@pytest.fixture(scope="module")
def work(world, tmp_path_factory) -> Path:
    """The folder of `write_run_folder`."""
    return write_run_folder(world, tmp_path_factory.mktemp("elsewhere"))


@pytest.fixture(scope="module")
def copy(work, tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("shared") / "copy"
    assert main([str(work), "--redact", str(target), "--keep_weights"]) == 0
    return target


def everything(folder: Path) -> bytes:
    """All names and all bytes of a folder, in lower case."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return b"\n".join([str(path.relative_to(folder)).encode() + path.read_bytes() for path in paths]).lower()


def secrets(work: Path) -> list[str]:
    """Parts of every kind of text, path and identifier in the folder, by hand."""
    texts = ["Quintessa", "What abnormality", "the ward", "Report 0", "vqa-0-xk", "ward question", *FINDINGS, *ANSWERS]
    paths = ["Elsewhere", "p10/", "some images", "ward_questions", str(work), ".jpg", "vowels.py", "first run"]
    studies = [f"5041426{number}" for number in range(6)]
    return [*texts, *paths, *PATIENTS, *studies, *(path.stem for path in work.rglob("*.jpg")), "<think>", "<|user|>"]


def test_no_question_path_or_image_is_left(work, copy):
    before, after = everything(work), everything(copy)
    found = {secret: (secret.lower().encode() in before, secret.lower().encode() in after) for secret in secrets(work)}
    assert {secret: where for secret, where in found.items() if where != (True, False)} == {}
    pixels = [path.read_bytes().lower()[-60:-20] for path in work.rglob("*.jpg")]
    assert [(one in before, one in after) for one in pixels] == [(True, False)] * 6
    assert {path.suffix for path in copy.rglob("*") if path.is_file()} == {".json", ".jsonl", ".safetensors"}


def numbers(path: Path, *left_out: str) -> list[list[str]]:
    return [row for row in csv.reader(path.read_text().splitlines()) if not set(left_out) & set(row)]


def test_reports_of_the_copy_have_the_numbers_of_the_original(work, copy, tmp_path):
    (results,) = {path.parent for path in copy.rglob("*_token_prob.json")}
    for name, folder in (("before", work / "result"), ("after", results)):
        assert evaluation_report.main([str(folder), "--output", str(tmp_path / name)]) == 0
    before, after = (numbers(tmp_path / name / "table.csv") for name in ("before", "after"))
    assert before == after
    assert len(before) > 15
    kinds = ("dataset", "question_type")  # whose values are pseudonyms
    before, after = (numbers(tmp_path / name / "looking.csv", *kinds) for name in ("before", "after"))
    assert before == after
    assert any(row[0] == "run" and row[7] == "changed" and float(row[8]) > 0 for row in before)


def test_the_summary_of_a_sweep_and_the_curves_of_a_run_stay_the_same(work, copy, tmp_path):
    (sweep,) = copy.rglob("sweep.json")
    rows = []
    for folder in (work / "sweep of the ward", sweep.parent):
        output = tmp_path / str(len(rows))
        assert summarize.main([str(folder), "--output", str(output)]) == 0
        (row,) = json.loads((output / "summary.json").read_text())["rows"]
        assert row.pop("not_in_the_numbers")[0].startswith("seed 1 failed")
        rows.append(row)
    assert rows[0] == rows[1]
    assert rows[0]["metrics"]["accuracy"].keys() == {"mean", "lo", "hi"}
    run = next(path.parent for path in copy.glob("*/completions.jsonl"))
    pages = []
    for folder in (work / "first run", run):
        assert training_report.main([str(folder), "--output", str(tmp_path / "page"), "--title", "t"]) == 0
        page = json.loads(
            (tmp_path / "page" / "training.html").read_text().partition('id="data">')[2].partition("</s")[0]
        )
        groups = [[one["reward"], one["advantage"]] for group in page["groups"] for one in group["completions"]]
        pages.append([page["panels"], groups, page["flat"]])
    assert pages[0] == pages[1]


def test_patients_keep_their_questions_and_equal_answers_are_equal_in_one_question_only(copy):
    (path,) = copy.rglob("*_shuffled_results.json")
    rows = json.loads(path.read_text())["results"]
    assert [row["subject_id"] for row in rows] == [rows[number % 3]["subject_id"] for number in range(6)]
    assert len({row["subject_id"] for row in rows}) == 3
    answers = [row["answer"] for row in rows]
    assert len({*map(tuple, answers)}) == 6  # though questions 0 and 3 have the same answer
    (tokens,) = (path for path in copy.rglob("*_token_prob.json"))
    assert [row["answer"] for row in json.loads(tokens.read_text())["results"]] == answers
    assert {len(row["token_logprobs"]) for row in json.loads(tokens.read_text())["results"]} == {6}


def allowing(rule, **fields):
    """The record ``rule`` with further fields that pass as they are."""
    own = dict(zip(rule.words, rule.parts, strict=True))
    return record(**own | dict.fromkeys(fields, lambda value, name, notes: value))


@pytest.mark.parametrize(
    ("module", "name", "field"),
    [
        (result_rows, "_COMPLETION", "solution"),
        (result_rows, "_COMPLETION", "raw_completion_tokens"),
        (result_rows, "_QUESTION", "generated_tokens"),
        (result_rows, "_QUESTION", "study"),
        (result_rows, "RESULT_FACTS", "annotation_file"),
        (result_rows, "RESULT_FACTS", "prompt_example"),
    ],
)
def test_a_field_that_is_let_through_is_found_and_no_copy_is_left(
    work, tmp_path, capsys, monkeypatch, module, name, field
):
    folder = tmp_path / "source"
    write(folder / "a_results.json", [result(0, TRUTH, "p1.jpg", generated_tokens=["Quintessa", " is ill"],
                                             study="50414267-x")],
          annotation_file="/home/quintessa/a.json", prompt_example="<|user|>Is there?")  # fmt: skip
    row = {"step": 1, "rewards": {}, "completion": "There is none.", "solution": "The heart is normal.",
           "raw_completion_tokens": [["There", " is", " nonesuch."]]}  # fmt: skip
    (folder / "completions.jsonl").write_text(json.dumps(row) + "\n")
    assert main([str(folder), "--redact", str(tmp_path / "good")]) == 0
    monkeypatch.setattr(module, name, allowing(getattr(module, name), **{field: None}))
    assert main([str(folder), "--redact", str(tmp_path / "copy")]) == 2
    assert "would be in the copy, which is removed" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["good", "source"]


def test_a_name_that_is_let_through_is_found(tmp_path, capsys, monkeypatch):
    folder = tmp_path / "source" / "p10000032"
    write(folder / "a_results.json", [result(0, TRUTH, "p1.jpg")])
    monkeypatch.setattr(Pseudonyms, "folder", lambda self, name: name)
    assert main([str(folder.parent), "--redact", str(tmp_path / "copy")]) == 2
    assert "p10000032" in capsys.readouterr().err
    assert not (tmp_path / "copy").exists()


def test_identifiers_that_are_numbers_are_found(tmp_path, monkeypatch):
    folder = write(tmp_path / "s" / "a_results.json", [result(0, TRUTH, "a.jpg", subject_id=10000032)]).parent
    monkeypatch.setattr(result_rows, "_QUESTION", allowing(result_rows._QUESTION, subject_id=None))
    assert main([str(folder), "--redact", str(tmp_path / "copy")]) == 2


SECRET = "There is a small left pleural effusion."


@pytest.mark.parametrize(
    "leak",
    [
        lambda path: path.write_text(json.dumps({"length": SECRET})),
        lambda path: path.write_text(SECRET.upper()),
        lambda path: path.write_text(SECRET[:24]),
        lambda path: path.write_bytes(b"\0" * (1 << 20) + SECRET.encode()),
        lambda path: path.write_bytes(base64.b64encode(SECRET.encode())),
        lambda path: path.write_bytes(gzip.compress(SECRET.encode())),
        lambda path: zipfile.ZipFile(path, "w").writestr("a", SECRET),
        lambda path: np.savez(path.open("wb"), a=np.frombuffer(SECRET.encode(), np.uint8)),
        lambda path: save_file({"a": torch.zeros(1)}, path.with_suffix(".safetensors"), {"note": SECRET}),
        lambda path: path.with_name(f"{SECRET}.json").write_text("{}"),
        lambda path: path.with_name("p10000032").mkdir(),
    ],
)
def test_the_search_finds_a_text_in_any_wrapping(tmp_path, leak):
    source, copied = tmp_path / "source", tmp_path / "copy"
    write(source / "a_results.json", [result(0, SECRET, "p10/p10000032/s50414267/a.jpg")])
    copied.mkdir()
    (copied / "fine.json").write_text('{"length": 3, "idx": "question-0123456789abcdef"}')
    assert find_leaks(source, copied) == []
    leak(copied / "file")
    assert len(find_leaks(source, copied)) >= 1


def test_escapes_of_json_hide_nothing(tmp_path):
    question = 'Is the "Röntgen" \\ film\tgood?'
    source = write(tmp_path / "s" / "a_results.json", [result(0, TRUTH, "a.jpg", question=question)]).parent
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "a.json").write_text(json.dumps({"length": question}))
    assert find_leaks(source, tmp_path / "copy") != []


def test_files_that_nobody_knows_are_listed_as_patient_data_and_left_out(tmp_path, capsys):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "notes").write_text("Mrs Quintessa")
    (folder / "args.json").write_text("[[[")
    (folder / "profile.json").symlink_to(tmp_path / "elsewhere.json")
    os.mkfifo(folder / "completions.jsonl")  # reading it would wait forever
    reports = {str(report.path): report for report in list_folder(folder)}
    assert {name: report.kind.name for name, report in reports.items()} == {
        "notes": "unknown", "args.json": "arguments", "profile.json": "unknown", "completions.jsonl": "unknown",
    }  # fmt: skip
    assert all(report.holds == ["identifiers", "images", "names", "texts"] for report in reports.values())
    assert main([str(folder), "--redact", str(tmp_path / "copy")]) == 0
    assert list((tmp_path / "copy").iterdir()) == []
    assert "not a regular file" in capsys.readouterr().out


def test_the_list_names_fields_and_how_often_they_occur(work):
    reports = {str(report.path): report for report in list_folder(work / "first run")}
    completions = reports["completions.jsonl"]
    assert (completions.kind.name, completions.records) == ("completions", 16)
    assert {"identifiers", "texts"} <= set(completions.holds)
    assert completions.withheld["solution"] == completions.withheld["completion"] == 16
    assert reports["args.json"].withheld["image_root"] == 1
    assert reports["training.html"].holds == ["identifiers", "images", "names", "texts"]


def test_weights_are_left_out_unless_asked_for_and_lose_their_header_texts(work, copy, tmp_path):
    assert main([str(work / "first run"), "--redact", str(tmp_path / "copy")]) == 0
    assert list((tmp_path / "copy").rglob("*.safetensors")) == []
    kept = next(copy.glob("*/checkpoint-2/adapter_model.safetensors"))
    weights = load_file(work / "first run" / "checkpoint-2" / "adapter_model.safetensors")
    assert all(torch.equal(value, weights[name]) for name, value in load_file(kept).items())
    assert b"__metadata__" not in kept.read_bytes()


def test_tensors_that_are_not_weights_are_left_out(tmp_path):
    (tmp_path / "run").mkdir()
    save_file({"text": torch.tensor(list(b"Mrs Quintessa"), dtype=torch.uint8)}, tmp_path / "run" / "a.safetensors")
    assert main([str(tmp_path / "run"), "--redact", str(tmp_path / "copy"), "--keep_weights"]) == 0
    assert list((tmp_path / "copy").iterdir()) == []


@pytest.mark.parametrize("target", ["run/copy", "run", "taken"])
def test_a_copy_is_never_written_into_the_folder_or_over_something(tmp_path, capsys, target):
    (tmp_path / "run").mkdir()
    (tmp_path / "taken").write_text("mine")
    assert main([str(tmp_path / "run"), "--redact", str(tmp_path / target)]) == 2
    assert "--redact" in capsys.readouterr().err
    assert (tmp_path / "taken").read_text() == "mine"


def test_two_copies_have_different_pseudonyms(tmp_path):
    folder = write(tmp_path / "s" / "a_results.json", [result(0, TRUTH, "a.jpg")]).parent
    names = []
    for number in range(2):
        assert main([str(folder), "--redact", str(tmp_path / str(number))]) == 0
        (path,) = (tmp_path / str(number)).iterdir()
        names += [path.name, json.loads(path.read_text())["results"][0]["subject_id"]]
    assert len(set(names)) == 4


def test_a_field_of_the_data_does_not_pass_for_stored_scores():
    """A record's own field of this name would otherwise be taken for the scores of the answer."""
    columns = {"scores_without_texts": {"accuracy": 1.0}}
    asked = Record((), ({"role": "user", "content": "Is there?"},), TRUTH, columns, "record 0")
    row = result_row(asked, 0, [{"text": "no", "num_tokens": 1, "finished": True}])
    assert "scores_without_texts" not in row


def test_names_of_rewards_pass_only_if_they_are_names():
    notes = Notes(Pseudonyms())
    assert identifiers(["external_r1v_acc", "vowels"], "reward_funcs", notes) == ["external_r1v_acc", "vowels"]
    words = ["rlhf.py", "--reward_funcs", "Is there?", "--seed", "3", "--dataset", "a.json", "--beta", "1 Main St"]
    assert documents.command(words, "command", notes) == ["--seed", "3"]

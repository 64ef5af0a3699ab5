"""Controls of runs: found by themselves or by a flag, and refused if more than the images differs."""

from __future__ import annotations

import json

import pytest

from swift.utils.errors import UserError
from tests.support.report_runs import write_look
from tools import compare_results, evaluation_report
from tools.looking.control_runs import load_with_controls
from tools.reports.result_files import find_files, read_result_files


def load(given=None, **runs):
    files = {name: read_result_files(find_files(paths)) for name, paths in runs.items()}
    return load_with_controls(files, {name: read_result_files(paths) for name, paths in (given or {}).items()})


def found(controls):
    return [(control.run, control.control) for control in controls]


def change(path, at=(), **values):
    """Change fields of a result file, or of the object ``at`` within it."""
    document = json.loads(path.read_text())
    place = document
    for key in at:
        place = place[key]
    place.update(values)
    path.write_text(json.dumps(document))


def test_a_folder_holds_a_run_and_its_controls(tmp_path):
    for control in ("none", "blank", "shuffled"):
        write_look(tmp_path, "policy", control, {0})
    runs, controls = load(run=[tmp_path])
    assert found(controls) == [("run", "blank"), ("run", "shuffled")]
    assert {result["image_paths"][0] for result in runs["run"].results} == {f"{n}.png" for n in range(6)}
    assert controls[1].results[2]["image_paths"] == ["other-2.png"]


def test_a_control_is_paired_by_question_and_not_by_position(tmp_path):
    write_look(tmp_path, "policy", "none", {0})
    path = write_look(tmp_path, "policy", "blank", {0})
    document = json.loads(path.read_text())
    path.write_text(json.dumps(document | {"results": document["results"][::-1]}))
    runs, (control,) = load(run=[tmp_path])
    assert [result["id"] for result in control.results] == [result["id"] for result in runs["run"].results]


def test_a_run_with_other_images_is_the_control_of_the_run_with_its_weights(tmp_path):
    kinds = ("sft", "none"), ("grpo", "none"), ("sft", "shuffled")
    paths = [write_look(tmp_path, policy, control, {0}) for policy, control in kinds]
    runs, controls = load(sft=paths[:1], grpo=paths[1:2], blind=paths[2:])
    assert list(runs) == ["sft", "grpo", "blind"]
    assert found(controls) == [("sft", "shuffled")]


def test_a_run_compared_under_its_own_name_is_no_control_if_more_than_the_images_differs(tmp_path):
    sft = write_look(tmp_path, "sft", "none", {0})
    blind = write_look(tmp_path, "sft", "shuffled", {0}, max_new_tokens=8)
    assert found(load(sft=[sft], blind=[blind])[1]) == []
    change(blind, settings=None)  # an older file: it does not say which weights answered
    assert found(load(sft=[sft], blind=[blind])[1]) == []


def test_a_control_of_the_runs_own_comes_before_a_run_of_another_name(tmp_path):
    own = [write_look(tmp_path / "own", "sft", control, {0}) for control in ("none", "shuffled")]
    blind = write_look(tmp_path / "blind", "sft", "shuffled", {1})
    _, (control,) = load(sft=own, blind=[blind])
    assert [result["generated_text"].endswith("yes</answer>") for result in control.results][:2] == [True, False]


ALLOWED = [
    ("another seed", {"settings": {"seed": 3}}),
    ("with tokens", {"settings": {"tokens": True, "top_k_alternatives": 3}}),
    ("the flag of the default", {"settings": {"dynamic_hd": 4}, "dynamic_hd": 4}),
    ("another name of the weights", {"checkpoint": "copy"}),
]


@pytest.mark.parametrize(("case", "changes"), ALLOWED, ids=[case for case, _ in ALLOWED])
def test_differences_that_decide_no_answer_are_allowed(tmp_path, case, changes):
    run, control = (write_look(tmp_path, "policy", name, {0}) for name in ("none", "blank"))
    change(run, dynamic_hd=4)
    change(control, at=["settings"], **changes.pop("settings", {}))
    change(control, **changes)
    assert found(load(run=[tmp_path])[1]) == [("run", "blank")]


REFUSED = [
    ({"settings": {"weights": ["w-other"]}}, ["of another checkpoint", "weights w-other", "the run: policy"]),
    ({"settings": None, "checkpoint": "other"}, ["of another checkpoint (other"]),
    ({"settings": {"max_new_tokens": 256}}, ["max_new_tokens 256, the run with 64", "same flags"]),
    ({"settings": {"system": "Be brief."}}, ["system 'Be brief.', the run with None"]),
    ({"settings": {"temperature": 0.7}, "decoding": "sampling"}, ["decoding 'sampling', the run with 'greedy'"]),
    ({"dynamic_hd": 9}, ["dynamic_hd 9, the run with 4"]),
    ({"dataset": "test_region_vqa"}, ["question 0 of test_basic_vqa is missing in it"]),
    ({"row": {"question": "Is there a nodule?"}}, ["question 2 of test_basic_vqa is not the same", "same version"]),
    ({"row": {"answer": ["no"]}}, ["question 2 of test_basic_vqa is not the same"]),
    ({"row": {"image_ids": ["9"]}}, ["question 2 of test_basic_vqa is not the same"]),
    ({"row": {"id": 77, "idx": 77}}, ["question 2 of test_basic_vqa is missing in it", "--max_samples"]),
]


@pytest.mark.parametrize(("changes", "words"), REFUSED, ids=[words[0] for _, words in REFUSED])
def test_a_control_that_differs_in_more_than_its_images_is_refused_in_one_line(tmp_path, capsys, changes, words):
    run, control = (write_look(tmp_path, "policy", name, {0}) for name in ("none", "blank"))
    change(run, dynamic_hd=4)
    changes = dict(changes)
    change(control, at=["results", 2], **changes.pop("row", {}))
    if isinstance(changes.get("settings"), dict):
        change(control, at=["settings"], **changes.pop("settings"))
    change(control, **changes)
    assert evaluation_report.main([str(run), "--control", str(control), "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert str(control) in error
    assert all(word in error for word in words), error
    assert not (tmp_path / "out").exists()


def test_sampled_answers_with_another_seed_are_other_answers(tmp_path):
    for control, seed in (("none", 0), ("blank", 1)):
        path = write_look(tmp_path, "policy", control, {0}, temperature=0.7, seed=seed)
        change(path, decoding="sampling")
    with pytest.raises(UserError, match="decoded with seed 1, the run with 0"):
        load(run=[tmp_path])


def test_a_question_that_either_file_skipped_may_be_missing_in_the_other(tmp_path):
    run, control = (write_look(tmp_path, "policy", name, {0}) for name in ("none", "blank"))
    for path, gone in ((run, 1), (control, 4)):
        document = json.loads(path.read_text())
        del document["results"][gone]
        path.write_text(json.dumps(document | {"skipped": [{"id": gone, "source": "x", "reason": "broken"}]}))
    runs, (loaded,) = load(run=[tmp_path])
    assert [result["id"] for result in runs["run"].results] == [0, 2, 3, 4, 5]
    assert [result and result["id"] for result in loaded.results] == [0, 2, 3, None, 5]


def test_files_of_two_controls_without_the_real_images_are_not_a_run(tmp_path):
    for control in ("blank", "shuffled"):
        write_look(tmp_path, "policy", control, {0})
    with pytest.raises(UserError, match=r"the files of run are controls \(blank, shuffled\) and none has"):
        load(run=[tmp_path])


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--control", "{blank}"], "has no name; write --control NAME="),
        (["--control", "a="], "--control a= has no files"),
        (["--control", "b={blank}"], "--control b names no run (a)"),
        (["--control", "a=nowhere.json"], "no result file at nowhere.json"),
        (["--control", "a={none}"], "was answered with the real images"),
        (["--run", "c={shuffled}", "--control", "c={blank}"], "the run is a control itself (shuffled)"),
        (["--control", "a={blank}", "{blank}"], "comes twice; pass each file once"),
        (["--run", "looking={none}"], "summary.json needs itself"),
    ],
)
def test_flags_of_controls_that_cannot_be_met_are_one_line_and_status_2(tmp_path, capsys, flags, words):
    paths = {control: write_look(tmp_path, "policy", control, {0}) for control in ("none", "blank", "shuffled")}
    flags = ["--run", f"a={paths['none']}", *(flag.format(**paths) for flag in flags)]
    assert compare_results.main([*flags, "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert words in error

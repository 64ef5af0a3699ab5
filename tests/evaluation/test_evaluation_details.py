"""Details of evaluation: clusters of intervals, files of a sweep, wordings, progress in a log, and rights of files."""

from __future__ import annotations

import json
import logging
import stat
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from swift.engine.batch import collate_completions
from swift.evaluation import answering
from swift.evaluation.arguments import EvaluationArguments
from swift.evaluation.question_files import SWEEP, read_question_files
from swift.evaluation.results import screen_lines
from swift.trainers.progress import LogLines
from swift.utils.errors import UserError
from swift.utils.files import replacing, write_json
from tests.support.builders import PAD, STOPS
from tests.support.report_runs import TRUTH, result, write
from tools.reports.result_files import load_runs
from tools.sweeps.jobs import EVALUATED
from tools.sweeps.summary import best
from utils.metrics import RULES
from utils.questions import clusters_in_words, counted, patients


@pytest.mark.parametrize(
    ("questions", "count", "words"),
    [
        ([{"subject_id": 1, "image_ids": ["a"]}, {"subject_id": 1.0, "image_ids": ["b"]}], 1, "1 patient"),
        ([{"subject_id": 1}, {"subject_id": 2}], 2, "2 patients"),
        ([{"image_ids": ["a"]}, {"image_ids": ["a"]}], 1, "1 image or pair (no subject_id)"),
        ([{"image_ids": ["a"]}, {"image_ids": ["a", "b"]}], 2, "2 images or pairs (no subject_id)"),
        ([{"image_name": "a.jpg"}, {"image_name": "a.jpg"}], 1, "1 image or pair (no subject_id)"),
        ([{"image_ids": ["a"], "image_paths": ["x"]}, {"image_ids": ["a"], "image_paths": ["y"]}], 1,
         "1 image or pair (no subject_id)"),
        ([{"images": [{"path": "a"}]}, {"images": [{"path": "a"}]}], 1, "1 image or pair (no subject_id)"),
        ([{"image_paths": [None]}, {"image_paths": [None]}], 2, "2 questions (no subject_id)"),
        ([{}, {}, {}], 3, "3 questions (no subject_id)"),
        ([{"subject_id": 1}, {"image_ids": ["a"]}], 2, "2 patients, or images where there is no subject_id"),
    ],
)  # fmt: skip
def test_intervals_draw_patients_or_else_images(questions, count, words):
    assert len(set(patients(questions))) == count
    assert clusters_in_words(questions) == words


@pytest.mark.parametrize(
    ("number", "noun", "expected"),
    [(0, "question", "0 questions"), (1, "question", "1 question"), (2, "image or pair", "2 images or pairs")],
)
def test_numbers_have_their_nouns(number, noun, expected):
    assert counted(number, noun) == expected


def sweep_folder(tmp_path, *names: str) -> EvaluationArguments:
    folder = tmp_path / "annotations" / "eval"
    folder.mkdir(parents=True)
    (tmp_path / "images").mkdir()
    Image.new("L", (56, 56)).save(tmp_path / "images" / "a.png")
    for name in names:
        (folder / name).write_text(json.dumps([{"question": "?", "answer": 3, "image_ids": ["a"]}]))
    return EvaluationArguments(["m"], dataset_folder=str(tmp_path))


@pytest.mark.parametrize(
    ("names", "taken"),
    [(SWEEP, SWEEP), (SWEEP[1:2], SWEEP[1:2]), ((SWEEP[2], "other.json"), (SWEEP[2],)), (("b.json", "a.jsonl"),) * 2],
)
def test_a_sweep_takes_the_files_that_are_there(tmp_path, names, taken):
    files = read_question_files(sweep_folder(tmp_path, *names))
    assert [file.path.name for file in files] == sorted(taken)


def test_a_sweep_without_files_names_those_it_wants(tmp_path):
    with pytest.raises(UserError, match=f"holds no file of questions; put {SWEEP[0]}"):
        read_question_files(sweep_folder(tmp_path))


def test_a_control_is_compared_without_a_warning_of_digests(tmp_path, caplog):
    settings = {"control": "none", "questions": "aaa", "seed": 0, "temperature": 0.0}
    files = {}
    for name, changes in (("real", {}), ("blind", {"control": "shuffled", "questions": "bbb", "seed": 7})):
        path = write(tmp_path / f"{name}.json", [result(0, TRUTH, "x.png")])
        path.write_text(json.dumps(json.loads(path.read_text()) | {"settings": settings | changes}))
        files[name] = [path]
    logging.getLogger("chex").addHandler(caplog.handler)
    load_runs(files)
    assert "different settings" not in caplog.text
    document = json.loads(files["blind"][0].read_text())
    document["settings"]["temperature"] = 0.5
    files["blind"][0].write_text(json.dumps(document))
    load_runs(files)
    logging.getLogger("chex").removeHandler(caplog.handler)
    assert "temperature 0.0 in real, 0.5 in blind" in caplog.text
    assert "bbb" not in caplog.text


def test_notes_stand_below_the_scores():
    metrics = {name: {"mean": 1.0, "lo": 1.0, "hi": 1.0} for name in RULES}
    assert screen_lines({"metrics": metrics, "rules": RULES, "notes": ["read this"]})[-1] == "  note: read this"


def test_progress_of_an_evaluation_is_read_from_its_log():
    log = "10:00:00 INFO test_basic_vqa: 64/200 questions\nother 3/4\n10:00:09 INFO test_basic_vqa: 128/200 questions\n"
    assert EVALUATED.findall(log)[-1] == ("test_basic_vqa", "128/200")


def test_a_log_gets_one_line_per_step(caplog):
    logging.getLogger("chex").addHandler(caplog.handler)
    state = SimpleNamespace(is_world_process_zero=True, global_step=3, max_steps=9)
    LogLines().on_log(None, state, None, logs={"loss": 0.5})
    logging.getLogger("chex").removeHandler(caplog.handler)
    assert caplog.messages == ["step 3/9: loss 0.5"]


@pytest.mark.parametrize(
    ("means", "starred"), [((0.5, 0.7, 0.7), {1, 2}), ((0.5, 0.5), set()), ((0.5,), set()), ((0.1, 0.2), {1})]
)
def test_nothing_is_starred_if_all_are_equal(means, starred):
    rows = [SimpleNamespace(means={"accuracy": SimpleNamespace(mean=mean)}) for mean in means]
    assert best(rows, "accuracy") == starred


def test_all_files_have_the_same_rights(tmp_path):
    """safetensors writes files that only their owner can read."""
    write_json(tmp_path / "a.json", {})
    with replacing(tmp_path / "a.safetensors") as temporary:
        save_file({"x": torch.zeros(1)}, temporary)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert len(modes) == 1


def test_the_text_that_prompts_end_with_begins_every_answer():
    completions = collate_completions([[7, 8, STOPS[0]]], PAD)
    template = SimpleNamespace(prefilled="<think>\n", decode=lambda ids: f"seen</think> {len(ids)}")
    (answer,) = answering._answers(template, completions, [None])
    assert answer.text == "<think>\nseen</think> 3"
    assert answer.token_ids == (7, 8, STOPS[0])

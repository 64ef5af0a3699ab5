"""evaluate.sh: stages that can be left out, folders with blanks, any working directory, failures told at the end."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.builders import ROOT, write_world

SCRIPT = ROOT / "evaluate.sh"


def run(*flags: object, cwd: Path, **settings: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment |= {name: str(value) for name, value in settings.items()}
    command = [str(SCRIPT), *map(str, flags)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=240)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"STAGES": "sweep dance"}, ["'dance' is unknown", "tokens"]),
        ({"STAGES": "single"}, ["set ANNOTATION_FILE"]),
        ({"STAGES": "kg report", "OUTPUT_DIR": "nothing here"}, ["nothing here holds no *_results.json"]),
        ({"CONTROLS": "blank gray"}, ["CONTROLS: 'gray' is unknown", "blank, shuffled or both"]),
        ({"CONTROLS": "blank", "CONTROL": "shuffled"}, ["CONTROL=shuffled leaves out the real images"]),
        ({"CONTROLS": "blank", "STAGES": "tokens report"}, ["the stages sweep and single; add one of them"]),
    ],
)
def test_wrong_settings_are_one_line_and_status_2(tmp_path, settings, words):
    done = run(cwd=tmp_path, **settings)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    for word in words:
        assert word in line


def test_a_stage_that_fails_keeps_none_from_running_and_shows_at_the_end(tmp_path):
    world = write_world(tmp_path / "a world", records=3)
    folder = world / "data" / "annotations" / "eval"
    folder.mkdir(parents=True)
    for group in ("basic", "compare", "region"):
        shutil.copy(world / "data" / "train.json", folder / f"test_{group}_vqa.json")
    elsewhere = tmp_path / "else where"
    elsewhere.mkdir()
    done = run(
        *("--no_tqdm", "--max_samples", 2),
        cwd=elsewhere,
        STAGES="single sweep",
        ANNOTATION_FILE="gone.json",
        MODEL_PATH="../a world/policy",
        DATASET_FOLDER="../a world/data",
        OUTPUT_DIR="out put",
        MAX_NEW_TOKENS=2,
        USE_FLASH_ATTENTION="false",
    )
    assert done.returncode == 2
    assert "gone.json does not exist" in done.stderr
    assert done.stderr.splitlines()[-1] == "error: failed: single"
    names = {path.name for path in (elsewhere / "out put").glob("*_results.json")}
    assert names == {f"policy_test_{group}_vqa_checkpoint_results.json" for group in ("basic", "compare", "region")}


STAND_IN = """#!/usr/bin/env bash
# Notes its arguments, and lists a result file as evaluate.py does.
echo "${*//$'\\n'/|}" >>"$NOTES"
control=none
while [[ $# -gt 0 ]]; do
  [[ "$1" != --control ]] || control="$2"
  [[ "$1" != --list_results ]] || printf '%s\\0' "${FOLDER:-out put}/run_${control}_results.json" >>"$2"
  shift
done
"""


def test_controls_are_asked_of_every_set_of_questions_and_go_to_the_report_alone(tmp_path):
    stand_in, notes = tmp_path / "python", tmp_path / "notes"
    stand_in.write_text(STAND_IN)
    stand_in.chmod(0o755)
    done = run(
        cwd=tmp_path,
        PYTHON=stand_in,
        NOTES=notes,
        DATASET_FOLDER=tmp_path,
        ANNOTATION_FILE="more.json",
        CONTROLS="blank shuffled blank",
        STAGES="sweep single kg report",
    )
    assert done.returncode == 0, done.stderr
    lines = notes.read_text().splitlines()
    asked = [line.split("--control ")[1].split()[0] for line in lines if "evaluate.py" in line]
    assert asked[:6] == ["none", "none", "blank", "blank", "shuffled", "shuffled"]
    assert not [line for line in lines if "kg" in line and ("blank" in line or "shuffled" in line)]
    (report,) = [line for line in lines if "tools.evaluation_report" in line]
    files, controls = report.split(" --output ")
    assert files.endswith("evaluation_report out put/run_none_results.json")
    assert controls.endswith("--control out put/run_blank_results.json out put/run_shuffled_results.json")


def test_without_an_earlier_stage_the_controls_of_a_result_file_go_to_the_report_alone(tmp_path):
    stand_in, notes, output = tmp_path / "python", tmp_path / "notes", tmp_path / "out put"
    stand_in.write_text(STAND_IN)
    stand_in.chmod(0o755)
    output.mkdir()
    for name in ("run", "run_blank", "alone_shuffled"):  # the last has no answers with the real images beside it
        (output / f"{name}_results.json").touch()
    done = run(cwd=tmp_path, PYTHON=stand_in, NOTES=notes, OUTPUT_DIR="out put", STAGES="kg report")
    assert done.returncode == 0, done.stderr
    *audits, report = notes.read_text().splitlines()
    assert {word for line in audits for word in line.split() if word.endswith("_results.json")} == {
        "put/run_results.json", "put/alone_shuffled_results.json",
    }  # fmt: skip
    assert report.endswith("--control out put/run_blank_results.json")


@pytest.mark.parametrize("name", ["two\nlines", "a 'b' \"c\" $(touch x) *?[]", "-rf", "ends in a line break\n"])
def test_a_result_folder_of_any_name_reaches_the_report_whole(tmp_path, name):
    """A line break once cut a path in two, and the stages kg and report got the halves."""
    stand_in, notes = tmp_path / "python", tmp_path / "notes"
    stand_in.write_text(STAND_IN)
    stand_in.chmod(0o755)
    folder = f"./{name}" if name.startswith("-") else name
    done = run(
        cwd=tmp_path,
        PYTHON=stand_in,
        NOTES=notes,
        FOLDER=folder,
        OUTPUT_DIR=name,
        DATASET_FOLDER=tmp_path,
        REPORTS="reports",
        CONTROLS="blank",
        STAGES="sweep kg report",
    )
    assert done.returncode == 0, done.stderr
    shown = folder.replace("\n", "|")
    lines = notes.read_text().splitlines()
    assert lines[0].count(f"--output_dir {shown} --") == 1
    audit = next(line for line in lines if "02_hall_kg.py" in line)
    assert f"--results {shown}/run_none_results.json --report_graphs {shown}/kg/run_none_results_mimic_kg.json" in audit
    assert lines[-1].endswith(
        f"{shown}/run_none_results.json --output {shown}/report --control {shown}/run_blank_results.json"
    )
    assert not (tmp_path / "x").exists()

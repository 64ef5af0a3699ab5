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

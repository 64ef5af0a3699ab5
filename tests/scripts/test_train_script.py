"""train.sh: one real run, stopped by a signal to the script, resumed as the script advises, and left with its page."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.support.builders import ROOT

PLENTY = 400  # steps that would take far longer than the test waits


def start(world: Path, output: Path, **settings: object) -> subprocess.Popen[str]:
    values = {
        "PYTHON": sys.executable,
        "MODEL": world / "policy",
        "DATASET": world / "data" / "train.json",
        "OUTPUT_DIR": output,
        "GENERATIONS": 4,
        "MAX_COMPLETION_LENGTH": 8,
        "DTYPE": "float32",
        "DYNAMIC_SAMPLE": "false",
        "MAX_STEPS": PLENTY,
        "OMP_NUM_THREADS": 1,
        "CUDA_VISIBLE_DEVICES": "",
        **settings,
    }
    environment = os.environ | {name: str(value) for name, value in values.items()}
    return subprocess.Popen([ROOT / "train.sh", "--use_cpu"], env=environment, stderr=subprocess.PIPE, text=True)


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 120
    while not path.exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.1)
    assert path.exists(), process.communicate()[1]


def test_a_run_is_stopped_by_one_signal_says_how_it_resumes_and_leaves_its_page(world, tmp_path):
    output = tmp_path / "run"
    process = start(world, output)
    wait_for(output / "completions.jsonl", process)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 130, said
    assert f"resume with RESUME=true OUTPUT_DIR={output}" in said
    assert (output / "training.html").is_file()
    (checkpoint,) = output.glob("checkpoint-*")
    assert int(checkpoint.name.partition("-")[2]) < PLENTY


def test_a_wrong_setting_is_one_line_and_leaves_no_page(world, tmp_path):
    process = start(world, tmp_path / "run", REWARDS="no_such_reward")
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 2
    assert [line for line in said.splitlines() if "Traceback" in line] == []
    assert "no_such_reward" in said.splitlines()[-1]
    assert not (tmp_path / "run" / "training.html").exists()

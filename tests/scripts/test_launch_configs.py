"""The files in configs/: accelerate launch under every engine, and the SLURM script on two stand-in nodes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from swift.llm.deepspeed_configs import DEEPSPEED_CONFIGS
from tests.support.builders import ROOT, rlhf_command, run_python

ENGINES = ("ddp", "fsdp2", "zero2", "zero3")
# Two nodes: the command runs once for each of them, at the same time.
SRUN = """#!/usr/bin/env bash
set -euo pipefail
[[ $1 == --kill-on-bad-exit=1 ]] && shift
SLURM_NODEID=0 "$@" &
first=$!
trap 'kill "$first" 2>/dev/null || true' EXIT
SLURM_NODEID=1 "$@"
wait "$first"
"""
SCONTROL = "#!/usr/bin/env bash\nprintf '127.0.0.1\\n127.0.0.1\\n'\n"


def steps_of(run: Path) -> list[dict]:
    state = json.loads((run / "checkpoint-1" / "trainer_state.json").read_text())
    return [entry for entry in state["log_history"] if "loss" in entry]


@pytest.mark.parametrize("engine", [name for name in ENGINES if name != "fsdp2"])  # the SLURM script takes that one
def test_accelerate_launch_trains_under_each_config(world, tmp_path, engine):
    command = rlhf_command(world, tmp_path / "run", max_steps=1, beta=0.1, trainable="vision-lora+head")
    place = command.index("--use_cpu")
    del command[place : place + 2]
    config = ("--config_file", f"configs/{engine}.yaml", "--num_processes", "2", "--main_process_port", "0")
    process = run_python("accelerate.commands.launch", *config, "-m", "swift.cli.rlhf", *command)
    assert process.returncode == 0, process.stderr
    assert json.loads((tmp_path / "run" / "args.json").read_text())["world_size"] == 2
    assert len(steps_of(tmp_path / "run")) == 1
    assert ("this process holds" in process.stderr) == (engine == "zero3")


@pytest.mark.parametrize("name", ["zero2", "zero3"])
def test_deepspeed_files_are_the_settings_of_the_flag(name):
    assert json.loads((ROOT / "configs" / f"{name}.json").read_text()) == DEEPSPEED_CONFIGS[name]


def test_every_config_says_how_it_is_started():
    for engine in ENGINES:
        text = (ROOT / "configs" / f"{engine}.yaml").read_text()
        assert f"accelerate launch --config_file configs/{engine}.yaml -m swift.cli.rlhf" in text


@pytest.fixture
def cluster(tmp_path) -> dict[str, str]:
    """Environment of a SLURM job on two nodes of one process each, with stand-ins for its programs."""
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(text)
        program.chmod(0o755)
    job = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_NNODES": "2"}
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    more = {"PATH": path, "PYTHON": sys.executable, "SLURM_GPUS_ON_NODE": "1", "OMP_NUM_THREADS": "1"}
    return {**os.environ, **job, **more, "CUDA_VISIBLE_DEVICES": ""}


def test_the_slurm_script_makes_one_run_of_all_nodes(world, tmp_path, cluster):
    run = tmp_path / "run"
    flags = [
        "--per_device_train_batch_size", "4", "--num_generations", "4", "--max_completion_length", "6",
        "--max_steps", "1",
    ]  # fmt: skip
    names = {"MODEL": str(world / "policy"), "DATASET": str(world / "data" / "train.json"), "OUTPUT_DIR": str(run)}
    process = subprocess.run(
        [ROOT / "configs" / "slurm.sh", *flags],
        cwd=ROOT, env=cluster | names, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert json.loads((run / "args.json").read_text())["world_size"] == 2
    assert "this process holds" in process.stderr  # FSDP2 divides the weights
    rows = [json.loads(line) for line in (run / "completions.jsonl").read_text().splitlines()]
    assert len(rows) == 8  # one group of four per node, each once


def test_the_slurm_script_names_what_is_missing(cluster):
    process = subprocess.run(
        [ROOT / "configs" / "slurm.sh"], cwd=ROOT, env=cluster, capture_output=True, text=True, check=False
    )
    assert process.returncode != 0
    assert "MODEL: names the folder of the checkpoint to train" in process.stderr

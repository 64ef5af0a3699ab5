"""Share of a GRPO step that its rewards take, from the seconds that a run logs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from swift.utils.errors import UserError
from swift.utils.files import read_json
from swift.utils.run_folder import newest_checkpoint, trainer_state
from tools.demo_world.build import make_demo
from tools.demo_world.dataset import WorldConfig
from tools.demo_world.policy import write_policy

_PARTS = ("rollout", "reward", "update")
_WORLD = WorldConfig(patients=(20, 40, 5), eval_questions=5)
_STEPS, _SKIPPED = 5, 1
_ROOT = Path(__file__).resolve().parents[1]


def seconds_per_step(run: Path, skipped: int = 0) -> dict[str, float]:
    """Mean seconds of rollout, reward and update over the log entries of a run, without the first ``skipped``.

    Raises:
        UserError: the folder does not hold a GRPO run with a checkpoint.
    """
    checkpoint = newest_checkpoint(run)
    if checkpoint is None:
        raise UserError(f"--run {run}: does not hold a finished checkpoint; give the folder of a GRPO run")
    history = trainer_state(checkpoint)["log_history"]
    logged = [entry for entry in history if "seconds/reward" in entry][skipped:]
    if not logged:
        raise UserError(f"--run {run}: seconds/reward is not in its log; give the folder of a GRPO run")
    return {part: sum(entry[f"seconds/{part}"] for entry in logged) / len(logged) for part in _PARTS}


def short_run(folder: Path) -> Path:
    """Run a few GRPO steps from an untrained policy on a small demo world. Returns the run's folder.

    The batch size and the two rewards are the demo's.
    """
    make_demo(folder / "world", _WORLD, workers=1)
    data = folder / "world" / "annotations"
    records = read_json(data / "train.json", "make the world again", list)
    write_policy(folder / "policy", (turn["content"] for record in records for turn in record["messages"]))
    run = folder / "run"
    command = [
        sys.executable, "-m", "swift.cli.rlhf", "--rlhf_type", "grpo", "--external_plugins", "plugin.py",
        "--model", folder / "policy", "--dataset", data / "valid.json", "--output_dir", run,
        "--reward_funcs", "external_r1v_acc", "external_kg_jac", "--per_device_train_batch_size", "96",
        "--num_generations", "8", "--max_completion_length", "32", "--max_steps", str(_STEPS),
        "--logging_steps", "1", "--report_to", "none", "--use_cpu", "true",
    ]  # fmt: skip
    environment = {**os.environ, "REXKG_EXTRACTOR": "lexicon", "FREEZE_NON_VISION_PARAMS": "1"}
    done = subprocess.run(list(map(str, command)), cwd=_ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"the short training run failed: {done.stderr.strip().splitlines()[-1]}")
    return run


def short_run_seconds(folder: Path) -> dict[str, float]:
    """`seconds_per_step` of `short_run`, without the first step, which warms up."""
    return seconds_per_step(short_run(folder), skipped=_SKIPPED)

"""A long run: resident memory, seconds per step and open files over thousands of GRPO steps of the demo policy.

    tools/demo.sh start                                   # once: the demo world, and the policy that GRPO starts from
    python -m bench.soak --steps 2000 --plot docs/images/soak.png

The learning rate is so small that completions keep their length, so that a drift of the step time would come from the
program. `memory_growth` is that of a straight line through the last half, `seconds_by_quarter` are medians over the
steps of each quarter. The last line of the output is a JSON object.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from swift.utils.errors import UserError, reports_user_errors
from swift.utils.run_folder import newest_checkpoint, trainer_state

INTERVAL = 1.0  # seconds between two looks at the process
LOGGING_STEPS = 10
STARTING = 60  # steps that the plot and the scale of memory leave out


@dataclass(frozen=True)
class Look:
    """The state of a process: seconds since its start, resident bytes and open files."""

    seconds: float
    memory: int
    files: int


def watch(command: Sequence[str]) -> list[Look]:
    """Run a command and look at it every `INTERVAL` seconds. Raises UserError if it fails."""
    looks = []
    began = time.monotonic()
    process = subprocess.Popen(command)
    own = psutil.Process(process.pid)
    while process.poll() is None:
        try:
            looks.append(Look(time.monotonic() - began, own.memory_info().rss, own.num_fds()))
        except psutil.Error:  # it has just ended
            break
        time.sleep(INTERVAL)
    if process.wait():
        raise UserError(f"the run ended with status {process.returncode}; see its messages above")
    return looks


def training_command(args: argparse.Namespace, output: Path) -> list[str]:
    """The run that is watched: one group of 8 per step, both published rewards, four checkpoints."""
    flags = {
        "model": args.model, "dataset": args.dataset, "output_dir": output, "external_plugins": "plugin.py",
        "torch_dtype": "float32", "per_device_train_batch_size": 8, "num_generations": 8, "max_completion_length": 64,
        "learning_rate": 1e-8, "beta": 0.03, "max_steps": args.steps, "save_steps": max(1, args.steps // 4),
        "save_total_limit": 2, "logging_steps": LOGGING_STEPS, "log_completions": "true", "disable_tqdm": "true",
    }  # fmt: skip
    words = [str(word) for flag, value in flags.items() for word in (f"--{flag}", value)]
    return [sys.executable, "-m", "swift.cli.rlhf", *words, "--reward_funcs", "external_r1v_acc", "external_kg_jac"]


def step_seconds(run: Path) -> np.ndarray:
    """Seconds per step [n], each the mean of `LOGGING_STEPS` steps, over all stages."""
    history = trainer_state(newest_checkpoint(run))["log_history"]
    rows = [[value for name, value in entry.items() if name.startswith("seconds/")] for entry in history]
    return np.array([sum(row) for row in rows if row])


def growth(values: np.ndarray) -> float:
    """Relative change of a straight line fitted to the last half of ``values`` [n], from its begin to its end."""
    half = values[len(values) // 2 :]
    slope, start = np.polyfit(np.arange(len(half)), half, 1)
    return float(slope * (len(half) - 1) / start)


def draw(looks: Sequence[Look], seconds: np.ndarray, path: Path) -> None:
    """Plot memory and open files over time, and seconds over steps."""
    figure = Figure(figsize=(9, 2.8), layout="constrained")
    FigureCanvasAgg(figure)
    minutes = [look.seconds / 60 for look in looks]
    steps = LOGGING_STEPS * (1 + np.arange(len(seconds)))
    late = steps > STARTING
    panels = (
        ("Resident memory (MB)", "minutes", minutes, [look.memory / 1e6 for look in looks]),
        ("Seconds per step", "step", steps[late], seconds[late]),
        ("Open files", "minutes", minutes, [look.files for look in looks]),
    )
    for axes, (title, unit, x, y) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        axes.plot(x, y, color="#0f6fc5", linewidth=1)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel(unit, fontsize=9)
        axes.set_ylim(bottom=0)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


@reports_user_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Run, plot, and print the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--model", default="output/demo/sft", help="policy to train")
    parser.add_argument("--dataset", default="data/demo/annotations/valid.json", help="training file")
    parser.add_argument("--steps", type=int, default=2000, help="optimizer steps")
    parser.add_argument("--plot", type=Path, help="PNG to write")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        looks = watch(training_command(args, Path(name, "run")))
        seconds = step_seconds(Path(name, "run"))
    if args.plot:
        draw(looks, seconds, args.plot)
    files = [look.files for look in looks[len(looks) // 2 : -1]]
    quarters = [float(np.median(part)) for part in np.array_split(seconds[STARTING // LOGGING_STEPS :], 4)]
    print(
        json.dumps(
            {
                "steps": args.steps,
                "memory_mb": round(looks[-2].memory / 1e6),
                "memory_growth": round(growth(np.array([look.memory for look in looks[:-1]], dtype=float)), 4),
                "seconds_by_quarter": [round(median, 4) for median in quarters],
                "open_files": [min(files), max(files)],
            }
        )
    )


if __name__ == "__main__":
    main()

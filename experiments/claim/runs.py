"""Folders of the experiment's runs, and the record of a finished one: its settings, data, steps, time and curve."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from experiments.claim.plan import SFT, WARM_START, CellRun, ClaimPlan
from swift.llm.checkpoint.folders import weight_digests
from swift.utils.digests import value_digest
from swift.utils.files import read_json, try_read_json
from swift.utils.run_folder import newest_checkpoint, trainer_state
from tools.sweeps.runs import training_settings

CURVE_POINTS = 20
CURVE = ("reward", "reward_std", "kl", "completion_length", "loss", "entropy", "clip_ratio")  # and rewards/, signs/
_PLACES = {"output_dir", "resume_from_checkpoint", "overwrite_output_dir"}  # settings that decide nothing


def run_folder(plan: ClaimPlan, run: CellRun) -> Path | None:
    """The folder of a run, whether it is finished or not; None if a sweep has not planned it yet."""
    if run.cell.baseline == WARM_START:
        return plan.output / WARM_START
    if run.cell.baseline == SFT:
        return plan.output / SFT / f"seed{run.seed}"
    sweep = plan.output / run.cell.advantage
    wanted = {
        "rewards": plan["rewards"][run.cell.rewards],
        "policy": plan.policy_name(run.cell.sampling, run.seed),
        "size": run.cell.size,
        "seed": str(run.seed),
    }
    entries = (try_read_json(sweep / "sweep.json") or {}).get("runs", {}).values()
    return next((sweep / entry["folder"] for entry in entries if wanted.items() <= entry.items()), None)


def finished_checkpoint(folder: Path | None) -> Path | None:
    """The last checkpoint of a run that has taken all of its steps; None for another."""
    checkpoint = newest_checkpoint(folder) if folder is not None and folder.is_dir() else None
    if checkpoint is None:
        return None
    state = trainer_state(checkpoint)
    return checkpoint if state["global_step"] >= state["max_steps"] > 0 else None


def run_record(plan: ClaimPlan, run: CellRun, checkpoint: Path) -> dict[str, Any]:
    """Facts of a finished run for its table. They depend on no machine, but for the seconds."""
    folder = checkpoint.parent
    written = read_json(folder / "args.json", "train the run again")
    settings = {name: value for name, value in training_settings(written).items() if name not in _PLACES}
    history = trainer_state(checkpoint)["log_history"]
    seconds = training_seconds(history) or seconds_until_saved(written["started"], checkpoint)
    return {
        "tag": run.tag,
        "cell": asdict(run.cell),
        "seed": run.seed,
        "steps": trainer_state(checkpoint)["global_step"],
        "seconds": round(seconds),
        "data_sha256": {Path(path).name: _sha256(Path(path)) for path in settings.get("dataset", ())},
        "settings": settings,
        "settings_digest": value_digest(settings),
        "weights": weight_digests(checkpoint, None),
        "commit": (written.get("git") or {}).get("commit"),
        "versions": written.get("versions"),
        "measurement": plan["measurement"],
        "curve": curve_points(history),
    }


def training_seconds(history: Sequence[Mapping[str, Any]]) -> float:
    """Seconds of the optimizer steps, from the stages that the log of GRPO times; 0 if it times none. Time between an
    interrupted and a resumed run does not count."""
    seconds, last = 0.0, 0
    for entry in history:
        stages = [value for name, value in entry.items() if name.startswith("seconds/")]
        if stages:
            seconds += sum(stages) * (entry["step"] - last)
            last = entry["step"]
    return seconds


def seconds_until_saved(started: str, checkpoint: Path) -> float:
    """Seconds from the start of a run, an ISO time, until a checkpoint was written: the time of SFT, which loads for
    some seconds and is never resumed here."""
    return (checkpoint / "trainer_state.json").stat().st_mtime - datetime.fromisoformat(started).timestamp()


def curve_points(history: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    """At most `CURVE_POINTS` points of the training log, each the mean of the entries since the last one."""
    entries = [entry for entry in history if "reward" in entry]
    size = -(-len(entries) // CURVE_POINTS) or 1
    points = []
    for start in range(0, len(entries), size):
        part = entries[start : start + size]
        names = {name for entry in part for name in entry if name in CURVE or name.startswith(("rewards/", "signs/"))}
        means = {name: _mean([entry[name] for entry in part if name in entry]) for name in sorted(names)}
        points.append({"step": part[-1]["step"], **means})
    return points


def _mean(values: Sequence[float]) -> float:
    return float(f"{sum(values) / len(values):.5g}")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()

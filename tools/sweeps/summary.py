"""Numbers of a sweep: runs read from their folders, grouped over seeds, and compared with the accuracy-only baseline.

A *setting* is everything that tells runs apart except the seed. The value of a setting for a question is its mean over
the seeds. An interval draws patients: it tells how sure a number is for these runs over other patients. The standard
deviation over seeds tells how much runs differ among themselves.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from swift.utils.decisive import NAMES_OF_CONTENT
from swift.utils.errors import UserError
from swift.utils.files import try_read_json
from swift.utils.run_folder import newest_checkpoint, trainer_state
from tools.reports.result_files import load_runs
from tools.reports.training_log import log_entries
from tools.sweeps.runs import evaluation_of, evaluation_settings, first_difference, is_plain_name, training_settings
from utils.intervals import Interval, difference_interval, mean_interval
from utils.questions import patients

SETTINGS = ("policy", "size", "learning_rate", "generations", "beta", "rewards")
METRICS = ("accuracy", "exact_set", "kg_f1", "kg_jaccard", "format", "length")
COMPARED = ("accuracy", "kg_f1")
BASELINE = "external_r1v_acc"
ENTRY = (*SETTINGS, "folder", "seed", "status", "reason")  # fields of a run in sweep.json, all of them texts
PER_RUN = {"seed"} | NAMES_OF_CONTENT  # flags in which the seeds of a setting may differ
PER_REWARDS = {"reward_funcs", "reward_weights"}  # and between a setting and its baseline

Setting = tuple[str, ...]  # values of SETTINGS


@dataclass(frozen=True)
class FinishedRun:
    """One run: its entry in sweep.json, its metrics (each [N]; None if it was not evaluated), and its log."""

    tag: str
    setting: Setting
    seed: str
    status: str
    reason: str
    metrics: Mapping[str, np.ndarray] | None
    history: Sequence[Mapping[str, Any]]

    @property
    def counts(self) -> bool:
        """True if the run enters the numbers."""
        return self.metrics is not None

    @property
    def why_not(self) -> str:
        """The reason why the run does not enter the numbers."""
        status = "not evaluated" if self.status == "finished" else self.status
        return f"seed {self.seed} {status}" + (f": {self.reason}" if self.reason else "")


@dataclass(frozen=True)
class SweepRow:
    """The row of a setting in the table. ``means`` and ``differences`` are empty if no run counts."""

    setting: Setting
    runs: tuple[FinishedRun, ...]
    means: dict[str, Interval]
    deviations: dict[str, float]  # over seeds, of the runs' means; empty below two runs
    differences: dict[str, Interval]  # to the baseline, over the seeds that both have

    @property
    def counted(self) -> list[FinishedRun]:
        """The runs that enter the numbers."""
        return [run for run in self.runs if run.counts]


def read_sweep(folder: Path) -> tuple[list[FinishedRun], list[str]]:
    """The runs of a sweep, and the patient of each question. Raises UserError if there is nothing to summarize, or if
    runs of one setting, or of a setting and its baseline, were made with different flags."""
    entries = _entries(folder)
    files = {tag: _result_files(folder / entry["folder"]) for tag, entry in entries.items()}
    evaluated = {tag: paths for tag, paths in files.items() if paths and entries[tag]["status"] == "finished"}
    loaded = load_runs(evaluated) if evaluated else {}
    runs = []
    for tag, entry in entries.items():
        metrics = loaded[tag].metrics if tag in loaded else None
        setting = tuple(entry[name] for name in SETTINGS)
        history = _history(folder / entry["folder"])
        runs.append(FinishedRun(tag, setting, entry["seed"], entry["status"], entry["reason"], metrics, history))
    _refuse_different(folder, runs, entries)
    questions = next(iter(loaded.values())).results if loaded else []
    return runs, patients(questions)


def _entries(folder: Path) -> dict[str, dict[str, Any]]:
    """The runs of sweep.json by tag. Raises UserError if there are none, or if one is not a run in this folder."""
    entries = (try_read_json(folder / "sweep.json") or {}).get("runs")
    if not entries or not isinstance(entries, dict):
        raise UserError(f"{folder} has no sweep.json with runs; give the folder that train_loop.sh wrote")
    for tag, entry in entries.items():
        wrong = [name for name in ENTRY if not isinstance(entry, dict) or not isinstance(entry.get(name), str)]
        if wrong:
            raise UserError(f"{folder}/sweep.json, run {tag}: field '{wrong[0]}' must be a text; sweep again")
        if not is_plain_name(entry["folder"]):
            raise UserError(f"{folder}/sweep.json, run {tag}: its folder leads out of the sweep; name one within it")
    return entries


def summarize_sweep(runs: Iterable[FinishedRun], clusters: Sequence[str], baseline: str = BASELINE) -> list[SweepRow]:
    """One row per setting, in the order of its values. Sizes are ordered as numbers."""
    groups: dict[Setting, list[FinishedRun]] = {}
    for run in runs:
        groups.setdefault(run.setting, []).append(run)
    rows = []
    for setting in sorted(groups, key=_order):
        members = tuple(sorted(groups[setting], key=lambda run: _number(run.seed)))
        counted = [run for run in members if run.counts]
        names = [name for name in METRICS if counted and all(name in run.metrics for run in counted)]
        means = {name: mean_interval(_over_seeds(counted, name), clusters) for name in names}
        deviations = {
            name: statistics.stdev(float(run.metrics[name].mean()) for run in counted)
            for name in names
            if len(counted) > 1
        }
        rivals = groups.get((*setting[:-1], baseline), []) if setting[-1] != baseline else []
        rows.append(SweepRow(setting, members, means, deviations, _differences(rivals, counted, clusters)))
    return rows


def best(rows: Sequence[SweepRow], metric: str) -> set[int]:
    """Positions of the rows whose mean of a metric is highest. Empty if all are equal."""
    means = {position: row.means[metric].mean for position, row in enumerate(rows) if metric in row.means}
    highest = {position for position, mean in means.items() if mean == max(means.values())}
    return highest if len(highest) < len(means) else set()


def as_document(rows: Sequence[SweepRow]) -> list[dict[str, Any]]:
    """The rows as JSON, for summary.json."""
    return [
        {
            **dict(zip(SETTINGS, row.setting, strict=True)),
            "seeds": [run.seed for run in row.counted],
            "metrics": {name: value.as_dict() for name, value in row.means.items()},
            "deviation_over_seeds": row.deviations,
            "difference_to_baseline": {name: value.as_dict() for name, value in row.differences.items()},
            "not_in_the_numbers": [run.why_not for run in row.runs if not run.counts],
        }
        for row in rows
    ]


def _differences(
    baselines: Sequence[FinishedRun], runs: Sequence[FinishedRun], clusters: Sequence[str]
) -> dict[str, Interval]:
    """The runs' metrics minus the baseline's, per question, averaged over the seeds that both have."""
    by_seed = {run.seed: run for run in baselines if run.counts}
    pairs = [(by_seed[run.seed], run) for run in runs if run.seed in by_seed]
    if not pairs:
        return {}
    first, second = zip(*pairs, strict=True)
    return {
        name: difference_interval(_over_seeds(first, name), _over_seeds(second, name), clusters)
        for name in COMPARED
        if all(name in run.metrics for run in (*first, *second))
    }


def _over_seeds(runs: Sequence[FinishedRun], metric: str) -> np.ndarray:
    """The mean of a metric over runs, per question, [N]."""
    return np.mean([run.metrics[metric] for run in runs], axis=0)


def _refuse_different(folder: Path, runs: Iterable[FinishedRun], entries: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise UserError if runs that are averaged over seeds, or compared with a baseline, differ in other flags too."""
    first: dict[tuple[str, Setting], tuple[str, dict[str, Any]]] = {}
    for run in runs:
        if not (run.counts or run.history):
            continue
        for what, made in _how_made(folder / entries[run.tag]["folder"], run.counts).items():
            for setting, left_out in ((run.setting, set()), (run.setting[:-1], PER_REWARDS)):
                compared = {name: value for name, value in made.items() if name not in left_out}
                other, before = first.setdefault((what, setting), (run.tag, compared))
                if difference := first_difference(before, compared):
                    name, one, another = difference
                    raise UserError(
                        f"{folder}: runs {other} and {run.tag} would count as the same but for seed and rewards, yet "
                        f"{name} of the {what} is {one} in the first and {another} in the second; sweep other settings "
                        "into another SWEEP folder"
                    )


def _how_made(run: Path, evaluated: bool) -> dict[str, dict[str, Any]]:
    """Settings of a run's training and, if it counts, of its evaluation."""
    record = try_read_json(run / "run.json") or {}
    training = training_settings(try_read_json(run / "args.json") or {}) | {"data_sha256": record.get("data_sha256")}
    made = {"training": {name: value for name, value in training.items() if name not in PER_RUN}}
    return made | ({"evaluation": evaluation_settings(evaluation_of(record))} if evaluated else {})


def _result_files(run: Path) -> list[Path]:
    """The result files of a run's finished evaluation."""
    evaluation = evaluation_of(try_read_json(run / "run.json"))
    if "replaced_by" in evaluation:
        return []
    files = [run / "eval" / name for name in evaluation.get("files", ())]
    return files if all(file.is_file() for file in files) else []


def _history(run: Path) -> list[dict[str, Any]]:
    checkpoint = newest_checkpoint(run)
    return [] if checkpoint is None else log_entries(trainer_state(checkpoint))


def _order(setting: Setting) -> tuple:
    named = dict(zip(SETTINGS, setting, strict=True))
    numbers = (_number(named[name]) for name in ("size", "learning_rate", "generations", "beta"))
    return (named["rewards"], named["policy"], *numbers)


def _number(text: str) -> tuple[float, str]:
    try:
        return float(text), ""
    except ValueError:
        return float("inf"), text

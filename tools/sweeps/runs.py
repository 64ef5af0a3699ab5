"""Planned runs of a sweep, and the state of their folders.

A run folder holds the files of the trainer, and run.json: settings, digest of the data, and the finished evaluation.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from swift.evaluation.arguments import EvaluationArguments
from swift.utils.decisive import WATCHING, Decides, fields_that_decide
from swift.utils.errors import UserError
from swift.utils.files import try_read_json, write_json
from swift.utils.json_lines import newest_objects
from swift.utils.run_folder import newest_checkpoint, trainer_state
from utils.switches import switches_set

PLACES = ("model_path", "output_dir")  # flags of an evaluation that follow from the run's folder


class Stage(StrEnum):
    """The next step of a run."""

    START = "start"
    RESUME = "resume"
    EVALUATE = "evaluate"
    NOTHING = "finished"


@dataclass(frozen=True)
class PlannedRun:
    """One run of a plan. ``settings`` holds its tag (the name of the run, its folder and its log), folder and data, and
    the settings that tell runs apart. ``evaluate`` is empty unless the run is to be evaluated."""

    settings: dict[str, str]
    train: tuple[str, ...]
    evaluate: tuple[str, ...] = ()

    @property
    def tag(self) -> str:
        return self.settings["tag"]

    @property
    def folder(self) -> Path:
        return Path(self.settings["folder"])

    @property
    def data(self) -> Path:
        return Path(self.settings["data"])

    @property
    def steps(self) -> int | None:
        """Optimizer steps asked for. None if the data decide."""
        value = flags_of(self.train).get("max_steps", ("-1",))[0]
        return int(value) if int(value) > 0 else None


def flags_of(command: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Values by flag, from the last occurrence of each flag. A flag without a value has none."""
    flags: dict[str, tuple[str, ...]] = {}
    name = None
    for word in command:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            name = name.replace("-", "_")
            flags[name] = (value,) if equals else ()
        elif name is not None:
            flags[name] += (word,)
    return flags


def next_stage(run: PlannedRun) -> Stage:
    """The work that is left for a run. Raises UserError if its data are missing, or if its folder holds another run."""
    digest = data_digest(run)
    if not run.folder.is_dir() or not any(run.folder.iterdir()):
        return Stage.START
    record = try_read_json(run.folder / "run.json")
    known = (record or {}).get("data_sha256")
    if known is not None and known != digest:
        raise UserError(f"{run.data} is not what {run.folder} was trained on; sample it again, or remove the folder")
    written = try_read_json(run.folder / "args.json")
    checkpoint = newest_checkpoint(run.folder)
    if written is None:
        if checkpoint is not None or record is None:
            raise UserError(f"{run.folder} holds something else, without a readable args.json; remove it")
        return Stage.START
    _refuse_another(run, written)
    if checkpoint is None or not _is_last(checkpoint):
        return Stage.RESUME
    return Stage.NOTHING if not run.evaluate or _is_evaluated(run, record or {}, checkpoint) else Stage.EVALUATE


def note_start(run: PlannedRun) -> None:
    """Write run.json unless it exists, before anything else happens to a run."""
    if try_read_json(run.folder / "run.json") is None:
        write_json(run.folder / "run.json", {**run.settings, "data_sha256": data_digest(run)})


def replaces_evaluation(run: PlannedRun) -> bool:
    """True if the run has an evaluation with other flags. Notes in run.json that its replacement begins: until the
    replacement has ended, result files of both may be in the folder."""
    record = try_read_json(run.folder / "run.json") or {}
    done = evaluation_of(record)
    flags = _evaluation_flags(run)
    if not done or ("replaced_by" not in done and evaluation_settings(done) == evaluation_settings({"flags": flags})):
        return False
    write_json(run.folder / "run.json", record | {"evaluation": done | {"replaced_by": flags}})
    return True


def note_evaluation(run: PlannedRun) -> None:
    """Record the finished evaluation in run.json."""
    checkpoint = newest_checkpoint(run.folder)
    files = sorted(path.name for path in (run.folder / "eval").glob("*_results.json"))
    if not files:
        raise UserError(f"the evaluation left no result file in {run.folder / 'eval'}")
    evaluation = {"flags": _evaluation_flags(run), "checkpoint": checkpoint.name, "files": files}
    write_json(run.folder / "run.json", (try_read_json(run.folder / "run.json") or {}) | {"evaluation": evaluation})


def is_plain_name(name: Any) -> bool:
    """True if ``name`` names something within a folder, and nothing beside, above or below that."""
    return isinstance(name, str) and Path(name).name == name and name not in ("", "..")


def evaluation_of(record: Mapping[str, Any] | None) -> dict[str, Any]:
    """The finished evaluation in a run.json. Empty if there is none that this program could have written."""
    done = (record or {}).get("evaluation")
    if not isinstance(done, dict):
        return {}
    flags, files = done.get("flags"), done.get("files")
    readable = isinstance(flags, dict) and all(isinstance(values, list) for values in flags.values())
    return done if readable and isinstance(files, list) and all(map(is_plain_name, files)) else {}


def training_settings(written: Mapping[str, Any]) -> dict[str, Any]:
    """The flags and environment switches of an args.json that decide what is computed."""
    command, environment = written.get("command"), written.get("environment")
    words = [word for word in command if isinstance(word, str)] if isinstance(command, list) else []
    return _settings(words, environment if isinstance(environment, dict) else {})


def evaluation_settings(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """The flags of a run.json's evaluation that decide the answers."""
    indifferent = fields_that_decide(EvaluationArguments, Decides.NOTHING)
    flags = evaluation.get("flags") or {}
    return {name: tuple(values) for name, values in flags.items() if name not in indifferent}


def first_difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[str, str, str] | None:
    """The first name, in alphabetical order, whose values differ, and both values in words. None if all are equal."""
    for name in sorted(one.keys() | other.keys()):
        if one.get(name) != other.get(name):
            return name, _shown(one.get(name)), _shown(other.get(name))
    return None


def _shown(value: Any) -> str:
    return "not set" if value is None else repr(" ".join(value) if isinstance(value, tuple) else value)


def step_of(run: PlannedRun) -> int:
    """The last optimizer step in completions.jsonl. 0 before the first."""
    rows = newest_objects(run.folder / "completions.jsonl")
    return next((row["step"] for row in rows if isinstance(row.get("step"), int)), 0)


def data_digest(run: PlannedRun) -> str:
    """SHA-256 of the run's data. Raises UserError if the file is missing."""
    try:
        return hashlib.sha256(run.data.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"data {run.data} is missing ({error.strerror}); sample it with tools.sample_data") from error


def _refuse_another(run: PlannedRun, written: Mapping[str, Any]) -> None:
    """Raise UserError if args.json has other flags, or environment switches that change what is computed."""
    now = _settings(run.train, os.environ)
    if other := first_difference(training_settings(written), now):
        name, before, after = other
        raise UserError(
            f"{run.folder} holds another run: {name} was {before} and is now {after}; "
            "remove the folder, or name another sweep"
        )


def _settings(command: Sequence[str], environment: Mapping[str, str]) -> dict[str, Any]:
    flags = {name: values for name, values in flags_of(command).items() if name not in WATCHING}
    return flags | switches_set(environment)


def _is_last(checkpoint: Path) -> bool:
    state = trainer_state(checkpoint)
    return state["global_step"] >= state["max_steps"] > 0


def _is_evaluated(run: PlannedRun, record: Mapping[str, Any], checkpoint: Path) -> bool:
    done = evaluation_of(record)
    return (
        bool(done)
        and "replaced_by" not in done
        and evaluation_settings(done) == evaluation_settings({"flags": _evaluation_flags(run)})
        and done.get("checkpoint") == checkpoint.name
        and all((run.folder / "eval" / name).is_file() for name in done["files"])
    )


def _evaluation_flags(run: PlannedRun) -> dict[str, list[str]]:
    return {name: list(values) for name, values in flags_of(run.evaluate).items() if name not in PLACES}

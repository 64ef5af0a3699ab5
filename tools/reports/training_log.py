"""The files of a training run: its arguments, its log, and its completions with their rewards."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from swift.utils.errors import UserError
from swift.utils.files import read_json, try_read_json
from swift.utils.json_lines import JsonLinesFile
from swift.utils.logger import get_logger

FLAT = 1e-6  # a group whose rewards spread no more than this counts as one without spread, as in training
LARGEST_OF_SCRIPTS = 2**53  # of a whole number that a script on a page can hold
_LIMITS = ("bandwidth_gb_per_second", "compute_tflops")
_REWARD_LISTS = ("reward_funcs", "reward_weights")
CompletionRow = dict[str, Any]

logger = get_logger()


def read_arguments(run: Path) -> dict[str, Any]:
    """The arguments in the run's args.json. Empty without the file. Raises UserError for a file of another shape."""
    path = run / "args.json"
    arguments = read_json(path, "fix or remove it").get("arguments", {}) if path.exists() else {}
    names, weights = (arguments.get(name) or [] if isinstance(arguments, dict) else None for name in _REWARD_LISTS)
    if not (_is_list_of(str, names) and _is_list_of(int | float, weights)):
        raise UserError(f"{path}: {' and '.join(_REWARD_LISTS)} must be lists of names and numbers; fix or remove it")
    return arguments


def read_history(run: Path) -> list[dict[str, Any]]:
    """The Trainer's log in the newest readable checkpoint. Empty if there is no checkpoint."""
    states = sorted(run.glob("checkpoint-*/trainer_state.json"), key=lambda path: _number(path.parent.name))
    for path in reversed(states):
        state = try_read_json(path) or {}
        if isinstance(state.get("log_history"), list):
            return log_entries(state)
        logger.warning("%s is incomplete; an older checkpoint is read", path)
    return []


def log_entries(state: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The numbers in the log of a trainer_state.json, with their steps. Other values, and those that are not finite,
    are left out."""
    history = state.get("log_history")
    entries = [entry for entry in history if isinstance(entry, dict)] if isinstance(history, list) else []
    return [
        {name: value for name, value in entry.items() if _is_finite(value)}
        for entry in entries
        if isinstance(entry.get("step"), int) and _is_finite(entry["step"])
    ]


def read_profile(run: Path) -> dict[str, Any] | None:
    """The profile of a few steps in the run's profile.json. None without a readable file."""
    profile = try_read_json(run / "profile.json")
    stages = profile.get("stages") if profile else None
    readable = _is_list_of(dict, stages) and all(
        isinstance(row.get("stage"), str)
        and {"seconds", "share"} <= row.keys()
        and all(_is_finite(row[name]) for name in row if name != "stage")
        for row in stages
    )
    readable = readable and all(_is_finite(profile.get(name)) for name in _LIMITS)
    return profile if readable else None


def read_completions(path: Path) -> Iterator[CompletionRow]:
    """The rows of completions.jsonl. A line cut off at the very end, as a kill leaves it, is passed over. Raises
    UserError for any other line that is not a row."""
    lines = JsonLinesFile(path, "fix or remove the line")
    for line in lines.lines():
        if missing := [name for name in ("step", "rewards", "completion") if name not in line.value]:
            raise lines.damage(line.number, f"field {missing[0]!r} is missing")
        if wrong := [name for name, is_right in _ROW.items() if name in line.value and not is_right(line.value[name])]:
            raise lines.damage(line.number, f"field {wrong[0]!r} is of another type")
        yield line.value


def total_reward(row: CompletionRow, weights: Mapping[str, float]) -> float:
    """The weighted sum of a completion's rewards. Rewards that do not apply (None) are left out."""
    return sum(weights.get(name, 1.0) * value for name, value in row["rewards"].items() if value is not None)


def group_key(row: CompletionRow) -> tuple[int, str]:
    """Key of a completion's group: step and prompt."""
    return row["step"], str(row.get("group", row.get("prompt")))


def survey(
    rows: Iterator[CompletionRow], weights: Mapping[str, float]
) -> tuple[dict[tuple[int, str], list[float]], list[CompletionRow]]:
    """Read all completions once. Returns the total rewards of each group, in the order of their first completions, and
    one log entry per step with the metrics that completions alone give."""
    groups: dict[tuple[int, str], list[float]] = defaultdict(list)
    values: dict[int, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        total = total_reward(row, weights)
        groups[group_key(row)].append(total)
        step = values[row["step"]]
        step["reward"].append(total)
        for name, value in row["rewards"].items():
            if value is not None:
                step[f"rewards/{name}"].append(value)
        if tokens := row.get("per_token_logps"):
            step["completion_length"].append(len(tokens[0]))
        if (dependencies := row.get("per_token_vision_dependency")) and row.get("preference") != 1:
            step["vision_dependency"] += dependencies[0]
        if "finished" in row:
            step["truncated"].append(not row["finished"])
    for (number, _), totals in groups.items():
        values[number]["reward_std"].append(reward_spread(totals))
        values[number]["zero_spread_groups"].append(reward_spread(totals) <= FLAT)
    entries = [{name: statistics.fmean(numbers) for name, numbers in step.items()} | {"step": number}
               for number, step in sorted(values.items())]  # fmt: skip
    return dict(groups), entries


def reward_spread(totals: Sequence[float]) -> float:
    """The standard deviation within a group, with Bessel's correction as in training. One completion has 0."""
    return statistics.stdev(totals) if len(totals) > 1 else 0.0


def _is_finite(value: Any) -> bool:
    """True for a number that a page can show."""
    whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) < LARGEST_OF_SCRIPTS
    return whole or (isinstance(value, float) and math.isfinite(value))


def _is_list_of(kind: Any, value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(entry, kind) for entry in value)


def _is_column(kind: Any) -> Callable[[Any], bool]:
    """Values of the tokens of one text, in a list of their own, or null."""
    return lambda value: value is None or (
        isinstance(value, list) and len(value) == 1 and _is_list_of(kind, value[0])
        and all(not isinstance(entry, int | float) or _is_finite(entry) for entry in value[0])
    )  # fmt: skip


# Types of the fields of completions.jsonl that its readers rely on.
_ROW: dict[str, Callable[[Any], bool]] = {
    "step": lambda value: isinstance(value, int) and _is_finite(value),
    "rewards": lambda value: isinstance(value, dict) and all(v is None or _is_finite(v) for v in value.values()),
    "completion": lambda value: isinstance(value, str),
    "prompt": lambda value: value is None or isinstance(value, str),
    "solution": lambda value: value is None or isinstance(value, str),
    "advantage": _is_finite,
    "vision_weight": _is_finite,
    "raw_completion_tokens": _is_column(str),
    "per_token_logps": _is_column(int | float),
    "per_token_vision_dependency": _is_column(int | float),
}


def _number(name: str) -> int:
    digits = name.rpartition("-")[2]
    return int(digits) if digits.isdigit() else -1

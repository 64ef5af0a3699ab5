"""The files of a training run: its arguments, its log, and its completions with their rewards."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from swift.utils.files import read_json, try_read_json
from swift.utils.json_lines import JsonLinesFile
from swift.utils.logger import get_logger

FLAT = 1e-6  # a group whose rewards spread no more than this counts as one without spread, as in training
CompletionRow = dict[str, Any]

logger = get_logger()


def read_arguments(run: Path) -> dict[str, Any]:
    """The arguments in the run's args.json. Empty without the file."""
    path = run / "args.json"
    return read_json(path, "fix or remove it").get("arguments", {}) if path.exists() else {}


def read_history(run: Path) -> list[dict[str, Any]]:
    """The Trainer's log in the newest readable checkpoint. Empty if there is no checkpoint."""
    states = sorted(run.glob("checkpoint-*/trainer_state.json"), key=lambda path: _number(path.parent.name))
    for path in reversed(states):
        history = (try_read_json(path) or {}).get("log_history")
        if isinstance(history, list):
            return history
        logger.warning("%s is incomplete; an older checkpoint is read", path)
    return []


def read_profile(run: Path) -> dict[str, Any] | None:
    """The profile of a few steps in the run's profile.json. None without a readable file."""
    profile = try_read_json(run / "profile.json")
    return profile if isinstance(profile, dict) and isinstance(profile.get("stages"), list) else None


def read_completions(path: Path) -> Iterator[CompletionRow]:
    """The rows of completions.jsonl. A line cut off at the very end, as a kill leaves it, is passed over. Raises
    UserError for any other line that is not a row."""
    lines = JsonLinesFile(path, "fix or remove the line")
    for line in lines.lines():
        if missing := [name for name in ("step", "rewards", "completion") if name not in line.value]:
            raise lines.damage(line.number, f"field {missing[0]!r} is missing")
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


def _number(name: str) -> int:
    digits = name.rpartition("-")[2]
    return int(digits) if digits.isdigit() else -1

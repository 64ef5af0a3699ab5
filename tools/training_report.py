"""Page of one training run: its curves, and what the policy said on the way.

    python -m tools.training_report output/demo/grpo --output output/demo/grpo

training.html shows the curves of the log (of completions.jsonl alone where no checkpoint is there yet), and groups of
completions spread evenly over the steps: prompt, reference, and for each completion its rewards, advantage and token
log-probabilities. A run that is still going can be looked at. Nothing in the page is loaded from elsewhere.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from swift.trainers.curves import curve_label, panels
from swift.utils.errors import UserError, reports_user_errors
from swift.utils.files import read_json, try_read_json, write_text
from swift.utils.json_lines import JsonLinesFile
from swift.utils.logger import get_logger
from tools.reports.page import render_page
from tools.reports.token_columns import token_columns

FLAT = 1e-6  # the spread of rewards at or below which the trainer calls a group one without spread
FACTS = (
    "model", "ref_model", "dataset", "train_type", "learning_rate", "beta", "epsilon", "num_generations", "temperature",
    "max_completion_length", "per_device_train_batch_size", "gradient_accumulation_steps", "num_iterations",
    "dynamic_sample", "reward_funcs", "reward_weights", "max_steps", "num_train_epochs", "seed",
)  # fmt: skip
CompletionRow = dict[str, Any]

logger = get_logger()


def read_arguments(run: Path) -> dict[str, Any]:
    """The arguments in the run's args.json; empty without the file."""
    path = run / "args.json"
    return read_json(path, "mend or remove it").get("arguments", {}) if path.exists() else {}


def read_history(run: Path) -> list[CompletionRow]:
    """The Trainer's log as the newest readable checkpoint holds it; empty without one."""
    states = sorted(run.glob("checkpoint-*/trainer_state.json"), key=lambda path: _number(path.parent.name))
    for path in reversed(states):
        history = (try_read_json(path) or {}).get("log_history")
        if isinstance(history, list):
            return history
        logger.warning("%s is incomplete; an older checkpoint is read", path)
    return []


def read_completions(path: Path) -> Iterator[CompletionRow]:
    """The rows of completions.jsonl. A line cut off at the very end, as a kill leaves it, is passed over. Raises
    UserError for any other line that is not a row."""
    lines = JsonLinesFile(path, "fix or remove the line")
    for line in lines.lines():
        if missing := [name for name in ("step", "rewards", "completion") if name not in line.value]:
            raise lines.damage(line.number, f"field {missing[0]!r} is missing")
        yield line.value


def total_reward(row: CompletionRow, weights: Mapping[str, float]) -> float:
    """The weighted sum of a completion's rewards, those that do not apply left out."""
    return sum(weights.get(name, 1.0) * value for name, value in row["rewards"].items() if value is not None)


def group_key(row: CompletionRow) -> tuple[int, str]:
    """What the completions of a group share."""
    return row["step"], str(row.get("group", row.get("prompt")))


def survey(
    rows: Iterator[CompletionRow], weights: Mapping[str, float]
) -> tuple[dict[tuple[int, str], list[float]], list[CompletionRow]]:
    """One pass over all completions: the total rewards of each group, in order of first sight, and a log entry per step
    with what can be told from completions alone."""
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
        if "finished" in row:
            step["truncated"].append(not row["finished"])
    for (number, _), totals in groups.items():
        values[number]["reward_std"].append(reward_spread(totals))
        values[number]["zero_spread_groups"].append(reward_spread(totals) <= FLAT)
    entries = [{name: statistics.fmean(found) for name, found in step.items()} | {"step": number}
               for number, step in sorted(values.items())]  # fmt: skip
    return dict(groups), entries


def reward_spread(totals: Sequence[float]) -> float:
    """The standard deviation within a group, with Bessel's correction as in training; 0 of one completion."""
    return statistics.stdev(totals) if len(totals) > 1 else 0.0


def choose_groups(keys: Sequence[tuple[int, str]], count: int) -> set[tuple[int, str]]:
    """Up to ``count`` groups, evenly over the run, first and last among them."""
    if len(keys) <= count:
        return set(keys)
    return {keys[round(place * (len(keys) - 1) / max(1, count - 1))] for place in range(count)}


def show_groups(
    rows: Iterator[CompletionRow], chosen: Mapping[tuple[int, str], Sequence[float]], weights: Mapping[str, float]
) -> list[dict[str, Any]]:
    """What the page shows of the chosen groups, in the order of the steps."""
    groups: dict[tuple[int, str], dict[str, Any]] = {}
    for row in rows:
        key = group_key(row)
        if key not in chosen:
            continue
        group = groups.setdefault(
            key,
            {
                "step": row["step"],
                "idx": row.get("idx"),
                "prompt": row.get("prompt", ""),
                "solution": row.get("solution") or "",
                "spread": round(reward_spread(chosen[key]), 4),
                "flat": reward_spread(chosen[key]) <= FLAT,
                "completions": [],
            },
        )
        group["completions"].append(show_completion(row, weights))
    return sorted(groups.values(), key=lambda group: group["step"])


def show_completion(row: CompletionRow, weights: Mapping[str, float]) -> dict[str, Any]:
    """One completion for the page."""
    texts, logps = (row.get(name) or [None] for name in ("raw_completion_tokens", "per_token_logps"))
    tokens = token_columns(row["completion"], texts[0], logps[0])
    return {
        "text": row["completion"],
        "reward": round(total_reward(row, weights), 4),
        "rewards": {name: value if value is None else round(value, 4) for name, value in row["rewards"].items()},
        "advantage": round(row["advantage"], 3) if "advantage" in row else None,
        "finished": row.get("finished", True),
        "in_loss": row.get("in_loss", True),
        **({"tokens": tokens} if tokens else {}),
    }


def page_data(run: Path, title: str, count: int) -> dict[str, Any]:
    """The page's data. Raises UserError for a folder that holds no run."""
    arguments, history, path = read_arguments(run), read_history(run), run / "completions.jsonl"
    if not (arguments or history or path.is_file()):
        raise UserError(
            f"{run} holds no training run: no args.json, no checkpoint-N, no completions.jsonl; name a run's folder"
        )
    names = arguments.get("reward_funcs") or []
    weights = dict(zip(names, arguments.get("reward_weights") or [1.0] * len(names), strict=False))
    sampled, entries, shown = {}, [], []
    if path.is_file():
        sampled, entries = survey(read_completions(path), weights)
        chosen = choose_groups(list(sampled), count)
        shown = show_groups(read_completions(path), {key: sampled[key] for key in chosen}, weights)
    logged = max((entry["step"] for entry in history), default=0)
    history = [*history, *(entry for entry in entries if entry["step"] > logged)]
    return {
        "title": title,
        "facts": [[name, _fact(arguments[name])] for name in FACTS if arguments.get(name) not in (None, [], "")],
        "steps": max((entry["step"] for entry in history), default=0),
        "panels": [
            {
                "title": name,
                "series": [{"label": curve_label(key), "x": x, "y": y} for key, (x, y) in series.items()],
            }
            for name, series in panels(history)
        ],
        "sampled": len(sampled),
        "flat": sum(reward_spread(totals) <= FLAT for totals in sampled.values()),
        "groups": shown,
    }


def _fact(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _number(name: str) -> int:
    digits = name.rpartition("-")[2]
    return int(digits) if digits.isdigit() else -1


@reports_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.training_report", description="Page of one training run.", allow_abbrev=False
    )
    parser.add_argument("run", type=Path, help="folder of the run, e.g. output/run")
    parser.add_argument("--output", type=Path, required=True, help="folder for training.html")
    parser.add_argument("--title", help="heading of the page (default: the run's name)")
    parser.add_argument("--groups", type=int, default=400, help="groups of completions to show (default: 400)")
    arguments = parser.parse_args(argv)
    if arguments.groups < 1:
        raise UserError(f"--groups {arguments.groups} must be 1 or more")
    title = arguments.title or f"Training run {arguments.run.resolve().name}"
    data = page_data(arguments.run, title, arguments.groups)
    page = write_text(arguments.output / "training.html", render_page("training", title, data))
    print(f"{page}: {data['steps']} steps, {len(data['groups'])} of {data['sampled']} groups, {data['flat']} of all "
          "without spread")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())

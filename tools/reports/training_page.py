"""Data of training.html: the curves of a run, and groups of its completions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from swift.trainers.curves import color_number, curve_label, panels
from swift.utils.errors import UserError
from swift.utils.files import write_text
from swift.utils.logger import get_logger
from tools.reports.page import render_page
from tools.reports.token_columns import token_columns
from tools.reports.training_log import (
    FLAT,
    CompletionRow,
    group_key,
    read_arguments,
    read_completions,
    read_history,
    read_profile,
    reward_spread,
    survey,
    total_reward,
)

logger = get_logger()

GROUPS = 400  # groups of completions on a page
FACTS = (
    "model", "ref_model", "dataset", "train_type", "learning_rate", "beta", "epsilon", "num_generations", "temperature",
    "max_completion_length", "per_device_train_batch_size", "gradient_accumulation_steps", "num_iterations",
    "dynamic_sample", "vision_weights", "vision_top_share", "reward_funcs", "reward_weights", "max_steps",
    "num_train_epochs", "seed",
)  # fmt: skip


def choose_groups(keys: Sequence[tuple[int, str]], count: int) -> set[tuple[int, str]]:
    """Up to ``count`` groups, evenly over the run, with the first and the last."""
    if len(keys) <= count:
        return set(keys)
    return {keys[round(place * (len(keys) - 1) / max(1, count - 1))] for place in range(count)}


def show_groups(
    rows: Iterator[CompletionRow], chosen: Mapping[tuple[int, str], Sequence[float]], weights: Mapping[str, float]
) -> list[dict[str, Any]]:
    """The chosen groups for the page, in the order of the steps."""
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
    names = ("raw_completion_tokens", "per_token_logps", "per_token_vision_dependency")
    texts, logps, dependencies = ((row.get(name) or [None])[0] for name in names)
    tokens = token_columns(row["completion"], texts, logps, dependencies=dependencies)
    return {
        "text": row["completion"],
        "reward": round(total_reward(row, weights), 4),
        "rewards": {name: value if value is None else round(value, 4) for name, value in row["rewards"].items()},
        "advantage": round(row["advantage"], 3) if "advantage" in row else None,
        "finished": row.get("finished", True),
        "in_loss": row.get("in_loss", True),
        **({"weight": round(row["vision_weight"], 3)} if "vision_weight" in row else {}),
        **({"tokens": tokens} if tokens else {}),
    }


def page_data(run: Path, title: str, count: int) -> dict[str, Any]:
    """The page's data, with ``count`` groups at most. Raises UserError if the folder does not hold a run."""
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
                "series": [
                    {"label": curve_label(key), "color": color_number(place) + 1, "x": x, "y": y}  # 0 is the baseline's
                    for place, (key, (x, y)) in enumerate(series.items())
                ],
            }
            for name, series in panels(history)
        ],
        "profile": read_profile(run),
        "sampled": len(sampled),
        "flat": sum(reward_spread(totals) <= FLAT for totals in sampled.values()),
        "groups": shown,
    }


def write_training_page(run: Path, folder: Path, title: str | None = None, count: int = GROUPS) -> tuple[Path, Any]:
    """Write training.html of a run into ``folder``. Returns its path and data. Raises UserError as `page_data` does."""
    title = title or f"Training run {run.resolve().name}"
    data = page_data(run, title, count)
    return write_text(folder / "training.html", render_page("training", title, data)), data


def leave_training_page(run: Path) -> None:
    """Write training.html into the folder of a run that has ended. A run without anything to show gets none, and a
    problem is a warning, since the training itself is done."""
    try:
        write_training_page(run, run)
    except (UserError, OSError) as error:
        logger.warning("no training.html: %s", error)


def _fact(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)

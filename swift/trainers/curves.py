"""curves.png: the course of a training run, drawn from the Trainer's log."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from swift.utils.files import replacing

# The panels, as titles and names in the log. A name that ends in "/" stands for all names one level below it.
PANELS = (
    ("Reward", ("reward", "rewards/")),
    ("Spread of rewards within groups", ("reward_std",)),
    ("Spread of each reward over a batch", ("rewards/*/std",)),
    ("Shares", ("zero_spread_groups", "dropped_groups", "truncated", "clip_ratio")),
    ("Signs of gaming (shares)", ("signs/",)),
    ("KL to the reference (nats per token)", ("kl",)),
    ("Entropy (nats per token)", ("entropy",)),
    ("Vision dependency (nats per token)", ("vision_dependency",)),
    ("Completion length (tokens)", ("completion_length", "completion_length_min", "completion_length_max")),
    ("Loss", ("loss", "eval_loss")),
    ("Gradient norm", ("grad_norm",)),
    ("Seconds per step", ("seconds/",)),
)
Series = dict[str, tuple[list[int], list[float]]]  # steps and values by name
# The colors of runs and metrics on the pages (shared.css) in light mode, without the gray of the baseline.
COLORS = ("#0f6fc5", "#a96f00", "#7b3fb5", "#0d7d6c", "#b8336a", "#4b6b00", "#8a4b2a")


def panels(history: Sequence[dict[str, Any]]) -> list[tuple[str, Series]]:
    """Title and series of every panel for which ``history`` (the Trainer's log_history) has values. Series stand in the
    order of `PANELS`, and by name within one entry of it, whichever comes first in the log."""
    return [(title, series) for title, names in PANELS if (series := _series(history, names))]


def draw_curves(history: Sequence[dict[str, Any]], path: str | Path) -> Path | None:
    """Draw the panels of ``history`` into ``path``. Returns the path, or None if there is nothing to draw."""
    drawn = panels(history)
    if not drawn:
        return None
    columns = min(3, len(drawn))
    rows = -(-len(drawn) // columns)
    figure = Figure(figsize=(4.6 * columns, 3.1 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (title, series) in zip(figure.subplots(rows, columns, squeeze=False).flat, drawn, strict=False):
        for place, (name, (steps, values)) in enumerate(series.items()):
            color = COLORS[color_number(place)]
            axes.plot(steps, values, color=color, alpha=0.25, linewidth=1)
            axes.plot(steps, _smoothed(values), color=color, linewidth=1.8, label=curve_label(name))
        axes.set_title(title, fontsize=11)
        axes.set_xlabel("step", fontsize=9)
        axes.tick_params(labelsize=9)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if len(series) > 1:
            axes.legend(fontsize=9, frameon=True, framealpha=0.8, edgecolor="none", loc="best")
    for axes in figure.axes[len(drawn) :]:
        axes.set_visible(False)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    return Path(path)


def color_number(place: int) -> int:
    """Position in `COLORS` of the series at a place in its panel. The pages take theirs from here, so that a metric has
    one color in all pictures of a run."""
    return place % len(COLORS)


def curve_label(name: str) -> str:
    """Label of a logged name in a legend."""
    name = name.removesuffix("/std").split("/")[-1]
    return name.removeprefix("external_").removeprefix("completion_").replace("_", " ")


def _series(history: Sequence[dict[str, Any]], patterns: tuple[str, ...]) -> Series:
    series: Series = {}
    for entry in history:
        for name, value in entry.items():
            if any(_matches(name, pattern) for pattern in patterns):
                steps, values = series.setdefault(name, ([], []))
                steps.append(entry["step"])
                values.append(value)

    def place(name: str) -> tuple[int, str]:
        return next(number for number, pattern in enumerate(patterns) if _matches(name, pattern)), name

    return {name: series[name] for name in sorted(series, key=place)}


def _matches(name: str, pattern: str) -> bool:
    if pattern.endswith("/"):
        return name.startswith(pattern) and "/" not in name.removeprefix(pattern)
    return fnmatchcase(name, pattern)


def _smoothed(values: Sequence[float], weight: float = 0.9) -> list[float]:
    """Exponential moving average with bias correction, without which the first points would be close to 0."""
    smoothed, total = [], 0.0
    for count, value in enumerate(values, start=1):
        total = weight * total + (1 - weight) * value
        smoothed.append(total / (1 - weight**count))
    return smoothed

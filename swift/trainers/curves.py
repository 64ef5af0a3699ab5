"""curves.png: how a training run went, drawn from the Trainer's log."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from swift.utils.files import replacing

# What is drawn, panel by panel: names of the log, or beginnings that end in "/" for all names that begin so.
PANELS = (
    ("Reward", ("reward", "rewards/")),
    ("Spread of rewards within groups", ("reward_std",)),
    ("Shares", ("zero_spread_groups", "dropped_groups", "truncated", "clip_ratio")),
    ("KL to the reference (nats a token)", ("kl",)),
    ("Entropy (nats a token)", ("entropy",)),
    ("Completion length (tokens)", ("completion_length", "completion_length_min", "completion_length_max")),
    ("Loss", ("loss", "eval_loss")),
    ("Gradient norm", ("grad_norm",)),
    ("Seconds a step", ("seconds/",)),
)
Series = dict[str, tuple[list[int], list[float]]]  # by name of the log: steps and values
COLORS = ("#0f6fc5", "#c77700", "#0d7d6c", "#b8336a", "#7b3fb5", "#5d6979")


def panels(history: Sequence[dict[str, Any]]) -> list[tuple[str, Series]]:
    """Title and series of every panel that ``history`` (the Trainer's log_history) has values for."""
    return [(title, series) for title, wanted in PANELS if (series := _series(history, wanted))]


def draw_curves(history: Sequence[dict[str, Any]], path: str | Path) -> Path | None:
    """Draw the panels of ``history``; None when there are none."""
    found = panels(history)
    if not found:
        return None
    columns = min(3, len(found))
    rows = -(-len(found) // columns)
    figure = Figure(figsize=(4.6 * columns, 3.1 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (title, series) in zip(figure.subplots(rows, columns, squeeze=False).flat, found, strict=False):
        for color, (name, (steps, values)) in zip(COLORS * len(series), series.items(), strict=False):
            axes.plot(steps, values, color=color, alpha=0.25, linewidth=1)
            axes.plot(steps, _smoothed(values), color=color, linewidth=1.8, label=curve_label(name))
        axes.set_title(title, fontsize=11)
        axes.set_xlabel("step", fontsize=9)
        axes.tick_params(labelsize=9)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if len(series) > 1:
            axes.legend(fontsize=9, frameon=True, framealpha=0.8, edgecolor="none", loc="best")
    for axes in figure.axes[len(found) :]:
        axes.set_visible(False)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    return Path(path)


def curve_label(name: str) -> str:
    """A logged name as a legend shows it."""
    return name.split("/")[-1].removeprefix("external_").removeprefix("completion_").replace("_", " ")


def _series(history: Sequence[dict[str, Any]], wanted: tuple[str, ...]) -> Series:
    found: Series = {}
    for entry in history:
        for name, value in entry.items():
            if any(name == key or (key.endswith("/") and name.startswith(key)) for key in wanted):
                steps, values = found.setdefault(name, ([], []))
                steps.append(entry["step"])
                values.append(value)
    return found


def _smoothed(values: Sequence[float], weight: float = 0.9) -> list[float]:
    """Exponential moving average with bias correction, so that the first points are not drawn towards 0."""
    out, total = [], 0.0
    for count, value in enumerate(values, start=1):
        total = weight * total + (1 - weight) * value
        out.append(total / (1 - weight**count))
    return out

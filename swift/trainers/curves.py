"""curves.png: how a training run went, drawn from the Trainer's log."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from swift.utils.files import replacing

PANELS = (
    ("Reward", ("reward", "rewards/")),
    ("Spread within groups", ("reward_std", "zero_spread_groups")),
    ("KL to the reference (nats a token)", ("kl",)),
    ("Completion length (tokens)", ("completion_length",)),
    ("Loss", ("loss",)),
    ("Seconds a step", ("seconds/",)),
)


def draw_curves(history: Sequence[dict[str, Any]], path: str | Path) -> Path | None:
    """Draw every panel that ``history`` (the Trainer's log_history) has values for; None when it has none."""
    panels = [(title, series) for title, wanted in PANELS if (series := _series(history, wanted))]
    if not panels:
        return None
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.6 * columns, 3.1 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (title, series) in zip(figure.subplots(rows, columns, squeeze=False).flat, panels, strict=False):
        for name, (steps, values) in series.items():
            axes.plot(steps, values, color=None, alpha=0.25, linewidth=1)
            axes.plot(steps, _smoothed(values), color=axes.lines[-1].get_color(), linewidth=1.8, label=_label(name))
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("step", fontsize=9)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if len(series) > 1:
            axes.legend(fontsize=8, frameon=False)
    for axes in figure.axes[len(panels) :]:
        axes.set_visible(False)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    return Path(path)


def _series(history: Sequence[dict[str, Any]], wanted: tuple[str, ...]) -> dict[str, tuple[list[int], list[float]]]:
    found: dict[str, tuple[list[int], list[float]]] = {}
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


def _label(name: str) -> str:
    return name.split("/")[-1].removeprefix("external_")

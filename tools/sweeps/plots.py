"""Pictures of a sweep: scores against the size of the training set, and reward and length during training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from swift.utils.files import replacing
from tools.sweeps.summary import SETTINGS, FinishedRun, SweepRow

FIGURE_SIZE = SETTINGS.index("size")
SIZE_PANELS = (("accuracy", "Accuracy"), ("kg_f1", "Knowledge-graph F1"))
STYLES = ("-", "--", ":", "-.")
PLOT_COLORS = (*(f"C{number}" for number in range(10)), "black", "gold", "navy", "lime", "maroon", "teal")
LENGTH = "completion_length"


def label_of(setting: Sequence[str], shown: Sequence[int]) -> str:
    """The name of a setting in a legend: its values at the positions ``shown``."""
    names = {"size": "size ", "learning_rate": "lr ", "generations": "G ", "beta": "beta "}
    parts = [f"{names.get(SETTINGS[position], '')}{setting[position]}" for position in shown]
    return ", ".join(parts).replace("external_", "").replace(" ,", ",")


def varying(rows: Sequence[SweepRow]) -> list[int]:
    """Positions of the settings that differ between rows, without the size. The policy if no setting differs."""
    positions = [position for position in range(len(SETTINGS)) if len({row.setting[position] for row in rows}) > 1]
    return [position for position in positions if position != FIGURE_SIZE] or [0]


def draw_sizes(rows: Sequence[SweepRow], path: Path) -> Path | None:
    """Draw accuracy and graph F1 against the number of training records. Returns None if nothing was evaluated."""
    shown = varying(rows)
    series = list(dict.fromkeys(label_of(row.setting, shown) for row in rows))
    rows = [row for row in rows if row.means]
    panels = [(name, title) for name, title in SIZE_PANELS if any(name in row.means for row in rows)]
    if not panels:
        return None
    sizes = sorted({float(row.setting[FIGURE_SIZE]) for row in rows})
    labels = list(dict.fromkeys(label_of(row.setting, shown) for row in rows))
    figure, grid = new_figure(1, len(panels), width=5.2, height=3.8)
    for axes, (metric, title) in zip(grid.flat, panels, strict=True):
        for number, label in enumerate(labels):
            line = [row for row in rows if label_of(row.setting, shown) == label and metric in row.means]
            # A small shift per setting, so that intervals do not hide one another.
            shift = (number - (len(labels) - 1) / 2) * min(0.06, 0.4 / len(labels))
            places = [sizes.index(float(row.setting[FIGURE_SIZE])) + shift for row in line]
            means = np.array([row.means[metric].mean for row in line])
            low, high = (np.array([getattr(row.means[metric], end) for row in line]) for end in ("lo", "hi"))
            axes.errorbar(places, means, [means - low, high - means], marker="o", markersize=4, capsize=3,
                          linewidth=1.6, color=_color(series.index(label)), label=label)  # fmt: skip
        axes.set_xticks(range(len(sizes)), [f"{size:g}" for size in sizes])
        axes.set_xlim(-0.4, len(sizes) - 0.6)
        finish_axes(axes, f"{title} (mean over seeds, 95% over patients)", "training records")
    _legend(figure, grid.flat[0], len(labels))
    return save_figure(figure, path)


def draw_steps(rows: Sequence[SweepRow], path: Path) -> Path | None:
    """Draw completion length and the parts of the reward against the step, as means over seeds. Returns None without
    training logs."""
    series, shown_settings = list(dict.fromkeys(label_of(row.setting, varying(rows)) for row in rows)), varying(rows)
    rows = [row for row in rows if any(run.history for run in row.runs)]
    names = {name for row in rows for run in row.runs for entry in run.history for name in entry}
    rewards = sorted(name for name in names if name.startswith("rewards/") and not name.endswith("/std"))
    panels = [name for name in (LENGTH, "reward", *rewards) if name in names]
    if not panels:
        return None
    several = len({row.setting[FIGURE_SIZE] for row in rows}) > 1
    shown = shown_settings + ([FIGURE_SIZE] if several else [])
    sizes = sorted({row.setting[FIGURE_SIZE] for row in rows}, key=float)
    columns = min(2, len(panels))
    figure, grid = new_figure(-(-len(panels) // columns), columns, width=5.2, height=3.2)
    for axes, name in zip(grid.flat, panels, strict=False):
        for row in rows:
            steps, values = mean_over_seeds(row.runs, name)
            if steps:
                color = _color(series.index(label_of(row.setting, shown_settings)))
                style = STYLES[sizes.index(row.setting[FIGURE_SIZE]) % len(STYLES)]
                axes.plot(steps, smoothed(values), style, color=color, linewidth=1.6,
                          label=label_of(row.setting, shown))  # fmt: skip
        title = (
            "Completion length (tokens)"
            if name == LENGTH
            else name.replace("rewards/", "reward: ").replace("external_", "").capitalize()
        )
        finish_axes(axes, title, "step")
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_visible(False)
    _legend(figure, grid.flat[0], len(rows))
    return save_figure(figure, path)


def mean_over_seeds(runs: Sequence[FinishedRun], name: str) -> tuple[list[int], list[float]]:
    """The steps for which any run's log has ``name``, and its mean over the runs that have it."""
    values: dict[int, list[float]] = {}
    for run in runs:
        for entry in run.history:
            if name in entry:
                values.setdefault(entry["step"], []).append(entry[name])
    return sorted(values), [float(np.mean(values[step])) for step in sorted(values)]


def smoothed(values: Sequence[float]) -> np.ndarray:
    """A running mean over a tenth of the steps, over fewer at the ends."""
    half = len(values) // 20
    return np.array([np.mean(values[max(0, at - half) : at + half + 1]) for at in range(len(values))])


def new_figure(rows: int, columns: int, width: float, height: float) -> tuple[Figure, np.ndarray]:
    """A figure and its axes, [rows, columns], each ``width`` by ``height`` inches."""
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def finish_axes(axes: Axes, title: str, xlabel: str) -> None:
    """Title, label and a light grid."""
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(xlabel, fontsize=9)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _legend(figure: Figure, axes: Axes, entries: int) -> None:
    """One legend below all panels."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=1 if entries < 3 else 2, fontsize=8, frameon=False)


def _color(number: int) -> str:
    return PLOT_COLORS[number % len(PLOT_COLORS)]


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG, and return its path."""
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    return path

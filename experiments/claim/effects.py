"""Picture of the effects: every contrast by the primary outcomes, with intervals and the least effect of interest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from experiments.claim.comparisons import Comparison, Verdict
from tools.sweeps.plots import finish_axes, new_figure, save_figure

VERDICT_COLORS = {Verdict.SUPPORTED: "C2", Verdict.WORSE: "C3", Verdict.NOT_SUPPORTED: "C0", Verdict.UNDECIDED: "0.55"}


def draw_effects(compared: Sequence[Comparison], primary: Sequence[str], path: Path) -> Path | None:
    """Draw the effects to a PNG. Returns None if no contrast has one."""
    shown = [one for one in compared if one.outcome in primary and one.estimate]
    return save_figure(effects_figure(shown, primary), path) if shown else None


def effects_figure(shown: Sequence[Comparison], primary: Sequence[str]) -> Figure:
    """A panel per outcome and a row per contrast, the first at the top. Confirmatory ones are round, others square.
    Colors are verdicts, and the band holds effects that are too small to be of interest."""
    names = list(dict.fromkeys(one.contrast.name for one in shown))
    figure, grid = new_figure(1, len(primary), width=4.6, height=0.9 + 0.34 * len(names))
    for axes, outcome in zip(grid.flat, primary, strict=True):
        for one in (one for one in shown if one.outcome == outcome):
            value, place = one.estimate, names.index(one.contrast.name)
            axes.errorbar([value.effect], [place], xerr=[[value.effect - value.lo], [value.hi - value.effect]],
                          marker="o" if one.confirmatory else "s", markersize=5 if one.confirmatory else 4, capsize=3,
                          linewidth=1.8 if one.confirmatory else 1.1, color=VERDICT_COLORS[one.verdict])  # fmt: skip
            axes.axvspan(-one.smallest, one.smallest, color="0.93", zorder=0)
            finish_axes(axes, one.what.label.capitalize(), "difference, 95% interval")
        axes.axvline(0, color="0.3", linewidth=0.8)
        axes.locator_params(axis="x", nbins=5)
        axes.set_yticks(range(len(names)), names if axes is grid.flat[0] else [""] * len(names), fontsize=9)
        axes.set_ylim(len(names) - 0.5, -0.5)
    points = [
        figure.axes[0].plot([], [], "o", color=color, label=str(verdict))[0]
        for verdict, color in VERDICT_COLORS.items()
    ]
    figure.legend(handles=points, loc="outside lower center", ncols=len(points), fontsize=8, frameon=False)
    return figure

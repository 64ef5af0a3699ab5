"""Figures of looking with intervals: of each run under each control, by kind of question, and paired between runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tools.looking.control_runs import ControlRun
from tools.looking.figures import CHANGED, LOOKING_RULES, RULE_FIGURES, FigureName, looking_columns
from tools.reports.result_files import GROUPINGS, EvaluatedRun
from utils.intervals import Interval, column_intervals
from utils.questions import group_rows, patients


@dataclass(frozen=True)
class LookFigures:
    """All figures over some questions. ``count`` is the number of questions that were answered both ways."""

    count: int
    intervals: Mapping[FigureName, Interval | None]

    def of(self, name: str, rule: str) -> Interval | None:
        """A figure by a rule of accuracy, on which the share of changed answers does not depend."""
        return self.intervals[name, None if name == CHANGED else rule]

    def nested(self, form: Callable[[Interval], Any]) -> dict[str, Any]:
        """``{"count", "changed", "rules": {rule: {figure: value}}}``, each value in the form that ``form`` gives it."""
        values = {name: interval and form(interval) for name, interval in self.intervals.items()}
        rules = {rule: {name: values[name, rule] for name in RULE_FIGURES} for rule in LOOKING_RULES}
        return {"count": self.count, CHANGED: values[CHANGED, None], "rules": rules}


@dataclass(frozen=True)
class Look:
    """The figures of a run under a control. With a ``baseline`` they are the run's minus the baseline's, paired by
    question."""

    run: str
    control: str
    baseline: str | None
    overall: LookFigures
    by: dict[str, dict[str, LookFigures]]  # by field of GROUPINGS, by its value, the most frequent first


@dataclass(frozen=True)
class Looking:
    """Everything that is known of looking: runs in their order, then differences. Empty without controls."""

    looks: list[Look]
    notes: list[str]

    def __bool__(self) -> bool:
        return bool(self.looks)

    @property
    def controls(self) -> list[str]:
        """The names of the controls, in the order of the first run that has them."""
        return list(dict.fromkeys(look.control for look in self.looks))

    def difference(self, run: str, control: str) -> Look | None:
        """The run's difference from its baseline under a control. None if it was not computed."""
        found = (look for look in self.looks if look.baseline and (look.run, look.control) == (run, control))
        return next(found, None)


def compute_looking(runs: Mapping[str, EvaluatedRun], controls: Sequence[ControlRun], baseline: str) -> Looking:
    """The figures of every run that has a control, and under each control the differences from one run: from
    ``baseline`` if it has this control, or else from the first run that has it.

    All figures share the resamples, which draw whole patients as in `utils.intervals`.
    """
    columns: dict[tuple[str, str, str | None], dict[FigureName, np.ndarray]] = {}
    for control in controls:
        columns[control.run, control.control, None] = looking_columns(runs[control.run].results, control.results)
    for control in dict.fromkeys(control.control for control in controls):
        members = [run for run, name, _ in columns if name == control]
        first = baseline if baseline in members else members[0]
        for run in members:
            if run != first:
                own, other = columns[run, control, None], columns[first, control, None]
                columns[run, control, first] = {name: own[name] - other[name] for name in own}
    if not columns:
        return Looking([], [])
    results = next(iter(runs.values())).results
    clusters = np.array(patients(results))
    overall = _figures(list(columns.values()), clusters, list(range(len(results))))
    by = {
        field: {value: _figures(list(columns.values()), clusters, rows) for value, rows in groups.items()}
        for field in GROUPINGS
        if (groups := group_rows(results, field))
    }
    looks = [
        Look(
            *key,
            overall[place],
            {field: {value: figures[place] for value, figures in values.items()} for field, values in by.items()},
        )
        for place, key in enumerate(columns)
    ]
    return Looking(looks, _notes(controls))


def _figures(
    columns: Sequence[Mapping[FigureName, np.ndarray]], clusters: np.ndarray, rows: list[int]
) -> list[LookFigures]:
    """The figures over the questions ``rows``, one entry for each of ``columns``. ``clusters`` [N] are the patients of
    all questions."""
    together = {(place, name): values[rows] for place, own in enumerate(columns) for name, values in own.items()}
    intervals = column_intervals(together, clusters[rows].tolist())
    return [
        LookFigures(int(np.isfinite(own[CHANGED, None][rows]).sum()), {name: intervals[place, name] for name in own})
        for place, own in enumerate(columns)
    ]


def _notes(controls: Sequence[ControlRun]) -> list[str]:
    """Sentences about figures that do not say what they seem to say."""
    notes = []
    if any(document.get("decoding") == "sampling" for control in controls for document in control.documents):
        notes.append("some answers were sampled, so they change by chance too; greedy ones change for the image alone")
    if len(set().union(*(control.seeds for control in controls if control.control == "shuffled"))) > 1:
        notes.append("shuffled images were drawn with different seeds, so the runs were shown different ones")
    return notes

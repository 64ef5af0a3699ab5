"""The numbers of evaluated runs: every metric with its interval, by kind of question, and paired against a baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from swift.utils.errors import UserError
from tools.reports.result_files import GROUPINGS, EvaluatedRun
from tools.reports.tables import Table
from utils.get_knowledge_graph import extractor_name
from utils.intervals import LEVEL, RESAMPLES, Interval, McNemar, column_intervals, mcnemar_exact
from utils.metrics import ACCURACY_RULES, TRAINING_RULE, notes_of
from utils.questions import clusters_in_words, group_rows, patients

RULE_METRICS = {rule: "accuracy" if rule == TRAINING_RULE else rule for rule in ACCURACY_RULES}
METRIC_LABELS = {
    "accuracy": "accuracy",
    "length": "length (tokens)",
    "format": "format kept",
    "kg_jaccard": "KG Jaccard",
    "kg_f1": "KG F1",
    **{name: f"accuracy, {rule}" for rule, name in RULE_METRICS.items() if rule != TRAINING_RULE},
}
_FIRST = ("accuracy", "kg_jaccard", "entity_f1", "length")  # the metrics of summary.json


@dataclass(frozen=True)
class RunComparison:
    """A run against a baseline over the same questions: run minus baseline."""

    run: str
    baseline: str
    difference: dict[str, Interval]
    mcnemar: dict[str, McNemar]  # by accuracy rule

    def as_dict(self) -> dict[str, Any]:
        """The comparison in metrics.json."""
        return {
            "run": self.run,
            "baseline": self.baseline,
            "difference": _as_dicts(self.difference),
            "mcnemar": {rule: test.as_dict() for rule, test in self.mcnemar.items()},
        }


@dataclass(frozen=True)
class Numbers:
    """All numbers of some runs over the same questions."""

    baseline: str
    summary: dict[str, dict[str, Interval]]  # by run, by metric
    breakdown: dict[str, list[dict[str, Any]]]  # by field of GROUPINGS
    comparisons: list[RunComparison]

    def against(self, run: str, baseline: str) -> RunComparison | None:
        """The comparison of two runs. None if it was not made."""
        return next((c for c in self.comparisons if (c.run, c.baseline) == (run, baseline)), None)


def metric_label(metric: str) -> str:
    """A metric's name in tables."""
    return METRIC_LABELS.get(metric, metric.replace("_", " ").replace(" f1", " F1").replace("jaccard", "Jaccard"))


def format_metric(metric: str, value: Interval | float, sign: str = "") -> str:
    """A metric's value as text: shares with three digits, lengths with one."""
    return f"{value:{sign}.{1 if metric == 'length' else 3}f}"


def metric_direction(metric: str) -> int:
    """1 if more is better, -1 if less is better, 0 if neither."""
    if metric in ("length", "confidence", "token_logprob"):
        return 0
    return -1 if "hallucination" in metric or "omission" in metric else 1


def compute_numbers(runs: Mapping[str, EvaluatedRun], baseline: str | None = None) -> Numbers:
    """Summary, breakdown and comparisons of ``runs`` (as `tools.reports.result_files.load_runs` gives them).

    The baseline is the first run unless named. Up to four runs are all compared in pairs, in both orders. More runs are
    compared with the baseline only. Raises UserError if the baseline is not a run.
    """
    names = list(runs)
    baseline = names[0] if baseline is None else baseline
    if baseline not in runs:
        raise UserError(f"--baseline {baseline} is not among the runs ({', '.join(names)}); name one of them")
    clusters = patients(runs[baseline].results)
    metrics = _shared_metrics(runs)
    pairs = [(run, other) for other in names for run in names if run != other]
    if len(names) > 4:
        pairs = [pair for pair in pairs if pair[1] == baseline]
    return Numbers(
        baseline,
        {name: column_intervals({key: run.metrics[key] for key in metrics}, clusters) for name, run in runs.items()},
        {field: breakdown(runs, field, metrics) for field in GROUPINGS},
        [_compare(runs[run], runs[other], metrics, clusters) for run, other in pairs],
    )


def breakdown(runs: Mapping[str, EvaluatedRun], field: str, metrics: Sequence[str]) -> list[dict[str, Any]]:
    """``{"name", "count", "runs": {run: {metric: Interval}}}`` for each value of ``field``, the most frequent first.
    Empty if no result has the field."""
    results = next(iter(runs.values())).results
    clusters = np.array(patients(results))
    return [
        {
            "name": value,
            "count": len(rows),
            "runs": {
                name: column_intervals({key: run.metrics[key][rows] for key in metrics}, clusters[rows].tolist())
                for name, run in runs.items()
            },
        }
        for value, rows in group_rows(results, field).items()
    ]


def metrics_document(runs: Mapping[str, EvaluatedRun], numbers: Numbers) -> dict[str, Any]:
    """The content of metrics.json: all numbers."""
    results = runs[numbers.baseline].results
    return {
        "questions": len(results),
        "patients": len(set(patients(results))),
        "clusters": clusters_in_words(results),
        "notes": notes_of(results),
        "level": LEVEL,
        "resamples": RESAMPLES,
        "extractor": extractor_name(),
        "baseline": numbers.baseline,
        "runs": {
            name: {
                "metrics": _as_dicts(numbers.summary[name]),
                "by": {
                    field: {row["name"]: {"count": row["count"], **_as_dicts(row["runs"][name])} for row in rows}
                    for field, rows in numbers.breakdown.items()
                    if rows
                },
                "files": [_file_facts(document) for document in run.documents],
            }
            for name, run in runs.items()
        },
        "comparisons": [comparison.as_dict() for comparison in numbers.comparisons],
    }


def metric_table(numbers: Numbers, labels: Mapping[str, str]) -> Table:
    """One row per metric, one column per run, then one per run's difference from the baseline: mean [low, high]."""
    columns = _columns(numbers, labels)
    rows = [["metric", *columns]]
    for metric in numbers.summary[numbers.baseline]:
        cells = [
            format_metric(metric, column[metric], sign) if column[metric] else "" for sign, column in columns.values()
        ]
        rows.append([metric_label(metric), *cells])
    return rows


def metric_number_table(numbers: Numbers, labels: Mapping[str, str]) -> Table:
    """`metric_table` for spreadsheets: mean, low and high in columns of their own."""
    columns = _columns(numbers, labels)
    rows = [["metric", *(name for column in columns for name in (column, f"{column}, low", f"{column}, high"))]]
    for metric in numbers.summary[numbers.baseline]:
        row = [metric]
        for _, column in columns.values():
            value = column[metric]
            row += [f"{part:.6g}" for part in (value.mean, value.lo, value.hi)] if value else [""] * 3
        rows.append(row)
    return rows


def _columns(numbers: Numbers, labels: Mapping[str, str]) -> dict[str, tuple[str, dict[str, Interval]]]:
    """Columns of the table by heading: the sign to print, and the values by metric."""
    columns = {labels[run]: ("", values) for run, values in numbers.summary.items()}
    for run in numbers.summary:
        if comparison := numbers.against(run, numbers.baseline):
            columns[f"{labels[run]} - {labels[numbers.baseline]}"] = ("+", comparison.difference)
    return columns


def _shared_metrics(runs: Mapping[str, EvaluatedRun]) -> list[str]:
    """Metrics that all runs have, those of summary.json first. The training rule has the name accuracy."""
    everywhere = set.intersection(*(set(run.metrics) for run in runs.values())) - {TRAINING_RULE}
    shared = [name for name in next(iter(runs.values())).metrics if name in everywhere]
    return [*(name for name in _FIRST if name in shared), *(name for name in shared if name not in _FIRST)]


def _compare(
    run: EvaluatedRun, baseline: EvaluatedRun, metrics: Sequence[str], clusters: Sequence[str]
) -> RunComparison:
    with np.errstate(invalid="ignore"):  # two infinities have no difference
        differences = {metric: run.metrics[metric] - baseline.metrics[metric] for metric in metrics}
    tests = {
        rule: mcnemar_exact(baseline.metrics[metric] > 0, run.metrics[metric] > 0)
        for rule, metric in RULE_METRICS.items()
        if metric in metrics
    }
    return RunComparison(run.name, baseline.name, column_intervals(differences, clusters), tests)


def _as_dicts(intervals: Mapping[str, Interval | None]) -> dict[str, dict[str, float] | None]:
    return {metric: interval and interval.as_dict() for metric, interval in intervals.items()}


def _file_facts(document: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of a result file, without its prompt example."""
    return {name: value for name, value in document.items() if name != "prompt_example"}

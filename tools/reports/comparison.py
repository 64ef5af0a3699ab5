"""A comparison of evaluated runs: the table on the terminal, and summary.json beside the files of the report."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from swift.utils.files import write_json
from tools.looking.compute import Looking, compute_looking
from tools.looking.control_runs import load_with_controls
from tools.looking.present import looking_lines, looking_summary
from tools.reports.numbers import Numbers, RunComparison, compute_numbers, format_metric
from tools.reports.result_files import read_result_files
from tools.reports.tables import align
from tools.reports.write import ReportOptions, count_line, write_report
from utils.get_knowledge_graph import extractor_name
from utils.intervals import Interval
from utils.metrics import TRAINING_RULE

SUMMARY_METRICS = ("accuracy", "kg_jaccard", "entity_f1", "length")
STAGES = {"sft": "SFT", "grpo": "GRPO", "blind": "blind"}  # runs with flags of their own, and their names for readers
RESERVED = ("difference", "seconds", "extractor", "looking")  # keys of summary.json beside the runs


def compare_files(
    files: Mapping[str, Sequence[str | Path]],
    options: ReportOptions,
    *,
    controls: Mapping[str, Sequence[str | Path]] | None = None,
    baseline: str | None = None,
    seconds: float | None = None,
    started: float | None = None,
) -> str:
    """Compare runs, given by name as result files, and write the report and summary.json. Returns the text for the
    terminal.

    Args:
        controls: further files of runs, answered under a control.
        baseline: the run that others are compared with (default: the first).
        seconds: duration of the runs, for summary.json.
        started: time in seconds since 1970 at which the runs began, in place of ``seconds``.

    Raises:
        UserError: the files do not belong together, or the baseline is not a run.
    """
    given = {name: read_result_files(paths) for name, paths in (controls or {}).items()}
    runs, control_runs = load_with_controls({name: read_result_files(paths) for name, paths in files.items()}, given)
    numbers = compute_numbers(runs, baseline)
    looking = compute_looking(runs, control_runs, numbers.baseline)
    labels = {name: STAGES.get(name, name) for name in runs}
    write_report(runs, numbers, looking, labels, options)
    seconds = round(time.time() - started, 1) if started else seconds
    write_json(options.output / "summary.json", summary_document(numbers, looking, seconds))
    comparisons = _with_baseline(numbers)
    columns = {**labels}
    if comparisons:
        columns["difference"] = f"{labels[comparisons[0].run]} - {labels[numbers.baseline]}"
    return "\n".join(
        [
            count_line(runs[numbers.baseline]),
            comparison_table(comparison_summary(numbers), columns),
            *(significance_line(comparison, labels) for comparison in comparisons),
            *looking_lines(looking, labels),
        ]
    )


def comparison_summary(numbers: Numbers) -> dict[str, dict[str, Interval]]:
    """The first metrics of each run, and as ``difference`` those of the first run after the baseline minus the
    baseline's, paired by question. Metrics that were not computed are left out."""
    summary = dict(numbers.summary)
    if comparisons := _with_baseline(numbers):
        summary["difference"] = comparisons[0].difference
    return {
        column: {metric: values[metric] for metric in SUMMARY_METRICS if metric in values}
        for column, values in summary.items()
    }


def comparison_table(summary: Mapping[str, Mapping[str, Interval]], labels: Mapping[str, str]) -> str:
    """The summary as text, one metric per line: mean [low, high]."""
    rows = [["", *(labels[column] for column in summary)]]
    for metric in next(iter(summary.values())):
        cells = [
            format_metric(metric, values[metric], "+" if name == "difference" else "")
            for name, values in summary.items()
        ]
        rows.append([metric, *cells])
    return align(rows)


def significance_line(comparison: RunComparison, labels: Mapping[str, str]) -> str:
    """McNemar's test of a run and its baseline, in words."""
    test, difference = comparison.mcnemar[TRAINING_RULE], comparison.difference["accuracy"]
    return (
        f"{labels[comparison.run]} against {labels[comparison.baseline]}: accuracy {difference:+.3f}, {test.gained} "
        f"questions gained, {test.lost} lost, McNemar's exact p = {test.p_value:.2g}"
    )


def summary_document(numbers: Numbers, looking: Looking, seconds: float | None) -> dict[str, Any]:
    """The content of summary.json."""
    summary = comparison_summary(numbers)
    intervals = {name: {metric: value.as_dict() for metric, value in row.items()} for name, row in summary.items()}
    looking_part = {"looking": looking_summary(looking)} if looking else {}
    return intervals | looking_part | {"seconds": seconds, "extractor": extractor_name()}


def _with_baseline(numbers: Numbers) -> list[RunComparison]:
    """Every other run against the baseline, in the order of the runs."""
    return [comparison for comparison in numbers.comparisons if comparison.baseline == numbers.baseline]

"""Compare evaluated runs: one table, summary.json, metrics.json and report.html.

    python -m tools.compare_results --run base=result/base --run tuned=result/tuned --output result/report
    python -m tools.compare_results --run A=FILE FILE --run B=FILE FILE --run C=FILE FILE --baseline B --output DIR
    python -m tools.compare_results --sft A/*_results.json --grpo B/*_results.json --blind C/*_results.json --output DIR

Every number is a mean over questions with a 95% bootstrap interval that draws whole patients; differences are paired
question by question, and McNemar's exact test says whether two runs are right equally often. Accuracy is by the
training rule, with the other rules beside it (`utils.metrics`); graphs are read by one extractor for all runs.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from swift.utils.errors import UserError, reports_user_errors
from swift.utils.files import write_json
from tools.evaluation_report import add_report_flags, check_report_flags, count_line, write_report
from tools.reports.numbers import Numbers, RunComparison, compute_numbers, number
from tools.reports.result_files import find_files, load_runs, writable
from tools.reports.tables import align
from utils.get_knowledge_graph import extractor_name
from utils.intervals import Interval
from utils.metrics import TRAINING_RULE

SUMMARY_METRICS = ("accuracy", "kg_jaccard", "entity_f1", "length")
STAGES = {"sft": "SFT", "grpo": "GRPO", "blind": "blind"}  # runs with flags of their own, and what readers call them
RESERVED = ("difference", "seconds", "extractor")  # keys of summary.json beside the runs


def comparison_summary(numbers: Numbers) -> dict[str, dict[str, Interval]]:
    """Each run's first metrics, and those of ``difference``: the first run after the baseline minus it, paired.
    Metrics that were not computed are left out."""
    summary = dict(numbers.summary)
    if comparisons := _with_baseline(numbers):
        summary["difference"] = comparisons[0].difference
    return {
        column: {metric: values[metric] for metric in SUMMARY_METRICS if metric in values}
        for column, values in summary.items()
    }


def comparison_table(summary: Mapping[str, Mapping[str, Interval]], labels: Mapping[str, str]) -> str:
    """The summary as text, a metric a line: mean [low, high]."""
    rows = [["", *(labels[column] for column in summary)]]
    for metric in next(iter(summary.values())):
        cells = [
            number(metric, values[metric], "+" if name == "difference" else "") for name, values in summary.items()
        ]
        rows.append([metric, *cells])
    return align(rows)


def significance_line(comparison: RunComparison, labels: Mapping[str, str]) -> str:
    """What McNemar's test says of a run and its baseline."""
    test, difference = comparison.mcnemar[TRAINING_RULE], comparison.difference["accuracy"]
    return (
        f"{labels[comparison.run]} against {labels[comparison.baseline]}: accuracy {difference:+.3f}, {test.gained} "
        f"questions gained, {test.lost} lost, McNemar's exact p = {test.p_value:.2g}"
    )


def summary_document(numbers: Numbers, seconds: float | None) -> dict[str, Any]:
    """What summary.json holds."""
    summary = comparison_summary(numbers)
    intervals = {name: {metric: value.as_dict() for metric, value in row.items()} for name, row in summary.items()}
    return intervals | {"seconds": seconds, "extractor": extractor_name()}


def named_files(arguments: argparse.Namespace) -> dict[str, list[Path]]:
    """The result files of each run, in the order of the table. Raises UserError for a run without a name or files, or
    a name twice."""
    given = [(name, files) for name in STAGES if (files := getattr(arguments, name))]
    for first, *others in arguments.run:
        name, equals, path = first.partition("=")
        if not (equals and name):
            raise UserError(f"--run {first} has no name; write --run NAME={first}")
        given.append((writable(name), [*([path] if path else []), *others]))
    found: dict[str, list[Path]] = {}
    for name, files in given:
        if name in found or name in RESERVED:
            reason = "is there twice" if name in found else "is a name that summary.json needs itself"
            raise UserError(f"--run {name} {reason}; give the run another name")
        if not files:
            raise UserError(f"--run {name}= has no files; name its result files or their folder")
        found[name] = find_files(files)
    if not found:
        raise UserError("no run to report; give --run NAME=FILE for each")
    return found


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Flags of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.compare_results", description="Compare evaluated runs.", allow_abbrev=False
    )
    runs = parser.add_argument_group("runs: result files of evaluate.py or folders of them, the same questions in each")
    runs.add_argument("--run", nargs="+", action="append", default=[], metavar=("NAME=FILE", "FILE"),
                      help="a run and its files; give it once for each run")  # fmt: skip
    runs.add_argument("--sft", nargs="+", metavar="FILE", help="a run named sft: the policy before GRPO")
    runs.add_argument("--grpo", nargs="+", metavar="FILE", help="a run named grpo: the policy after GRPO")
    runs.add_argument("--blind", nargs="+", metavar="FILE", help="a run named blind: the policy with shuffled images")
    runs.add_argument("--baseline", metavar="NAME", help="the run that others are compared with (default: the first)")
    add_report_flags(parser, "Evaluated runs compared")
    clock = parser.add_mutually_exclusive_group()
    clock.add_argument("--seconds", type=float, help="how long the runs took, for summary.json")
    clock.add_argument("--started", type=float, metavar="EPOCH", help="when they began; the seconds run until now")
    return parser.parse_args(argv)


@reports_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    arguments = parse_arguments(argv)
    check_report_flags(arguments)
    runs = load_runs(named_files(arguments))
    numbers = compute_numbers(runs, arguments.baseline)
    labels = {name: STAGES.get(name, name) for name in runs}
    write_report(runs, numbers, labels, arguments)
    seconds = round(time.time() - arguments.started, 1) if arguments.started else arguments.seconds
    write_json(arguments.output / "summary.json", summary_document(numbers, seconds))
    print(count_line(runs[numbers.baseline]))
    comparisons = _with_baseline(numbers)
    if comparisons:
        labels |= {"difference": f"{labels[comparisons[0].run]} - {labels[numbers.baseline]}"}
    print(comparison_table(comparison_summary(numbers), labels))
    for comparison in comparisons:
        print(significance_line(comparison, labels))
    return 0


def _with_baseline(numbers: Numbers) -> list[RunComparison]:
    """Every other run against the baseline, in the order of the runs."""
    return [comparison for comparison in numbers.comparisons if comparison.baseline == numbers.baseline]


if __name__ == "__main__":
    sys.exit(main())

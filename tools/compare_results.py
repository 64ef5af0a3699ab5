"""Compare evaluated runs: one table, summary.json and report.html.

    python -m tools.compare_results --sft output/demo/eval/sft*_results.json --grpo ... --blind ... --output output/demo

Every number is a mean over questions with a 95% bootstrap interval that draws whole patients; the difference is paired
question by question. Accuracy is by the training rule (`utils.metrics`); graphs are read by one extractor for all runs.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from swift.utils.errors import UserError, reports_user_errors
from swift.utils.files import write_json, write_text
from swift.utils.logger import get_logger
from tools.evaluation_report import render_report
from tools.result_files import Run, load_runs
from tools.text_table import align
from utils.get_knowledge_graph import extractor_name
from utils.statistics import Interval, difference_interval, mean_interval, patients

METRICS = ("accuracy", "kg_jaccard", "entity_f1", "length")
LABELS = {"sft": "SFT", "grpo": "GRPO", "blind": "blind", "difference": "GRPO - SFT"}

logger = get_logger()


def summarise(runs: dict[str, Run]) -> dict[str, dict[str, Interval]]:
    """Each run's metrics, and those of ``difference``: GRPO minus SFT, paired. Metrics not computed are left out."""
    clusters = patients(runs["sft"].results)
    names = [name for name in METRICS if all(name in run.metrics for run in runs.values())]
    summary = {run.name: {name: mean_interval(run.metrics[name], clusters) for name in names} for run in runs.values()}
    sft, grpo = runs["sft"].metrics, runs["grpo"].metrics
    summary["difference"] = {name: difference_interval(sft[name], grpo[name], clusters) for name in names}
    return summary


def table(summary: dict[str, dict[str, Interval]]) -> str:
    """The summary as text, a metric a line: mean [low, high]."""
    columns = list(summary)
    rows = [["", *(LABELS[column] for column in columns)]]
    for metric in summary["sft"]:
        rows.append([metric, *(_cell(metric, summary[column][metric], column) for column in columns)])
    return align(rows)


def _cell(metric: str, value: Interval, column: str) -> str:
    sign = "+" if column == "difference" else ""
    return f"{value:{sign}.{1 if metric == 'length' else 3}f}"


def summary_document(summary: dict[str, dict[str, Interval]], seconds: float | None) -> dict[str, Any]:
    """What summary.json holds."""
    numbers = {name: {metric: value.as_dict() for metric, value in values.items()} for name, values in summary.items()}
    return numbers | {"seconds": seconds, "extractor": extractor_name()}


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Flags of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.compare_results", description="Compare evaluated runs.", allow_abbrev=False
    )
    runs = parser.add_argument_group("runs: result files of evaluate.py, the same questions in each")
    runs.add_argument("--sft", nargs="+", required=True, metavar="FILE", help="the policy before GRPO")
    runs.add_argument("--grpo", nargs="+", required=True, metavar="FILE", help="the policy after GRPO")
    runs.add_argument("--blind", nargs="+", metavar="FILE", help="the policy with shuffled images")
    output = parser.add_argument_group("output")
    output.add_argument("--output", type=Path, required=True, help="folder for summary.json and report.html")
    output.add_argument("--title", default="SFT and GRPO on held-out questions", help="heading of the report")
    output.add_argument("--curves", type=Path, metavar="PNG", help="picture of the training curves for the report")
    output.add_argument("--cases", type=int, default=60, help="questions the report shows (default: 60)")
    output.add_argument("--embed_images", action="store_true",
                        help="put radiographs into the report even if they are not drawn ones")  # fmt: skip
    clock = parser.add_mutually_exclusive_group()
    clock.add_argument("--seconds", type=float, help="how long the runs took, for summary.json")
    clock.add_argument("--started", type=float, metavar="EPOCH", help="when they began; the seconds run until now")
    return parser.parse_args(argv)


@reports_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    arguments = parse_arguments(argv)
    if arguments.curves and not arguments.curves.is_file():
        raise UserError(f"--curves {arguments.curves} does not exist; leave it out or correct the path")
    files = {name: paths for name in ("sft", "grpo", "blind") if (paths := getattr(arguments, name))}
    runs = load_runs(files)
    summary = summarise(runs)
    report = render_report(
        runs, summary, arguments.title, extractor_name(), arguments.curves, arguments.cases, arguments.embed_images
    )
    write_text(arguments.output / "report.html", report)
    seconds = round(time.time() - arguments.started, 1) if arguments.started else arguments.seconds
    write_json(arguments.output / "summary.json", summary_document(summary, seconds))
    results = runs["sft"].results
    print(f"{len(results)} questions about {len(set(patients(results)))} patients; mean [95% interval]")
    print(table(summary))
    logger.info("wrote summary.json and report.html to %s", arguments.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())

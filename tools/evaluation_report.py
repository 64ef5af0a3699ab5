"""Report of one evaluated run: report.html, the table, and every metric.

    python -m tools.evaluation_report result/run_*_results.json --output result/report
    python -m tools.evaluation_report result --output result/report       every result file of a folder, as one run

Beside report.html lie table.csv, table.tex, table.md and metrics.json. Several runs: tools.compare_results.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from swift.utils.errors import UserError, reports_user_errors
from swift.utils.files import write_json, write_text
from swift.utils.logger import get_logger
from tools.reports.evaluation_page import render_report
from tools.reports.numbers import Numbers, compute_numbers, main_table, metrics_document, number_table
from tools.reports.result_files import EvaluatedRun, find_files, load_runs, writable
from tools.reports.tables import align, to_csv, to_latex, to_markdown
from utils.questions import patients

logger = get_logger()


def add_report_flags(parser: argparse.ArgumentParser, title: str) -> None:
    """Flags that every report has."""
    output = parser.add_argument_group("output")
    output.add_argument("--output", type=Path, required=True, help="folder for report.html, the tables and the JSON")
    output.add_argument("--title", type=writable, default=title, help="heading of the report")
    output.add_argument("--curves", type=Path, metavar="PNG", help="picture of the training curves for the report")
    output.add_argument("--embed_images", action="store_true",
                        help="put radiographs into the report even if they are not drawn ones")  # fmt: skip


def check_report_flags(arguments: argparse.Namespace) -> None:
    """Raise UserError for a flag of `add_report_flags` that cannot be met."""
    if arguments.curves and not arguments.curves.is_file():
        raise UserError(f"--curves {arguments.curves} does not exist; leave it out or correct the path")


def write_report(
    runs: Mapping[str, EvaluatedRun], numbers: Numbers, labels: Mapping[str, str], arguments: argparse.Namespace
) -> None:
    """Write report.html, table.{csv,tex,md} and metrics.json to ``arguments.output``."""
    page = render_report(
        runs, numbers, labels, arguments.title, curves=arguments.curves, embed_images=arguments.embed_images
    )
    table, folder = main_table(numbers, labels), arguments.output
    write_text(folder / "report.html", page)
    write_text(folder / "table.csv", to_csv(number_table(numbers, labels)))
    write_text(folder / "table.tex", to_latex(table, caption=arguments.title))
    write_text(folder / "table.md", to_markdown(table))
    write_json(folder / "metrics.json", metrics_document(runs, numbers))
    logger.info("wrote report.html (%.1f MB), table.csv, table.tex, table.md and metrics.json to %s",
                len(page.encode("utf-8")) / 1e6, folder)  # fmt: skip


def count_line(run: EvaluatedRun) -> str:
    """How many questions and patients the numbers are about."""
    return f"{len(run.results)} questions about {len(set(patients(run.results)))} patients; mean [95% interval]"


@reports_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.evaluation_report", description="Report of one evaluated run.", allow_abbrev=False
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="result files of evaluate.py, or folders of them")
    parser.add_argument("--name", type=writable, default="run", help="what the run is called (default: run)")
    add_report_flags(parser, "Evaluation")
    arguments = parser.parse_args(argv)
    check_report_flags(arguments)
    runs = load_runs({arguments.name: find_files(arguments.files)})
    numbers = compute_numbers(runs)
    write_report(runs, numbers, {arguments.name: arguments.name}, arguments)
    print(count_line(runs[arguments.name]))
    print(align(main_table(numbers, {arguments.name: arguments.name})))
    return 0


if __name__ == "__main__":
    sys.exit(main())

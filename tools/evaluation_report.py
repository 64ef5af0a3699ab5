"""Report of one evaluated run: report.html, the table, and every metric.

    python -m tools.evaluation_report result/run_*_results.json --output result/report
    python -m tools.evaluation_report result --output result/report       every result file of a folder, as one run

table.csv, table.tex, table.md and metrics.json are written beside report.html. tools.compare_results reports several
runs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from swift.utils.errors import reports_user_errors
from tools.reports.numbers import compute_numbers, metric_table
from tools.reports.result_files import find_files, load_runs, writable
from tools.reports.tables import align
from tools.reports.write import add_report_flags, count_line, read_report_options, write_report


@reports_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.evaluation_report", description="Report of one evaluated run.", allow_abbrev=False
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="result files of evaluate.py, or folders of them")
    parser.add_argument("--name", type=writable, default="run", help="name of the run in the report (default: run)")
    add_report_flags(parser, "Evaluation")
    arguments = parser.parse_args(argv)
    options = read_report_options(arguments)
    runs = load_runs({arguments.name: find_files(arguments.files)})
    numbers = compute_numbers(runs)
    labels = {arguments.name: arguments.name}
    write_report(runs, numbers, labels, options)
    print(count_line(runs[arguments.name]))
    print(align(metric_table(numbers, labels)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Report of one evaluated run: report.html, the table, and every metric.

    python -m tools.evaluation_report result/run_*_results.json --output result/report
    python -m tools.evaluation_report result --output result/report       every result file of a folder, as one run

table.csv, table.tex, table.md and metrics.json are written beside report.html. tools.compare_results reports several
runs. Files of the same questions under a control (`evaluate.py --control`) give the figures of looking: name them among
the files, or after --control.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from swift.utils.errors import reports_user_errors
from swift.utils.flag_limits import CommandParser
from swift.utils.lines import lines_without_controls
from tools.looking.compute import compute_looking
from tools.looking.control_runs import load_with_controls
from tools.looking.present import looking_lines
from tools.reports.numbers import compute_numbers, metric_table
from tools.reports.result_files import find_files, read_result_files, writable
from tools.reports.tables import align
from tools.reports.write import add_report_flags, count_line, read_report_options, write_report


@reports_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = CommandParser(prog="python -m tools.evaluation_report", description="Report of one evaluated run.")
    parser.add_argument("files", nargs="+", metavar="FILE", help="result files of evaluate.py, or folders of them")
    parser.add_argument("--name", type=writable, default="run", help="name of the run in the report (default: run)")
    parser.add_argument("--control", nargs="+", default=[], metavar="FILE",
                        help="files of the same questions with blank or shuffled images")  # fmt: skip
    add_report_flags(parser, "Evaluation")
    arguments = parser.parse_args(argv)
    options = read_report_options(arguments)
    files, given = read_result_files(find_files(arguments.files)), read_result_files(find_files(arguments.control))
    runs, controls = load_with_controls({arguments.name: files}, {arguments.name: given} if given else None)
    numbers = compute_numbers(runs)
    looking = compute_looking(runs, controls, numbers.baseline)
    labels = {arguments.name: arguments.name}
    write_report(runs, numbers, looking, labels, options)
    print(count_line(runs[arguments.name]))
    lines = [align(metric_table(numbers, labels)), *looking_lines(looking, labels)]
    print(lines_without_controls("\n".join(lines)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Compare evaluated runs: one table, summary.json, metrics.json and report.html.

    python -m tools.compare_results --run base=result/base --run tuned=result/tuned --output result/report
    python -m tools.compare_results --run A=FILE FILE --run B=FILE FILE --run C=FILE FILE --baseline B --output DIR
    python -m tools.compare_results --sft A/*_results.json --grpo B/*_results.json --blind C/*_results.json --output DIR

Every number is a mean over questions with a 95% bootstrap interval that draws whole patients. Differences are paired
question by question, and McNemar's exact test says if two runs are right equally often. Accuracy is by the training
rule, with the other rules beside it (`utils.metrics`). One extractor reads the graphs of all runs.

Files of a run under a control (`evaluate.py --control blank` or `shuffled`) tell how far its answers depend on images.
They are found among the files of the run, or named by --control:

    python -m tools.compare_results --run A=FILE --control A=BLANK SHUFFLED --run B=FOLDER --output DIR
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from swift.utils.errors import UserError, reports_user_errors
from swift.utils.flag_limits import CommandParser
from swift.utils.lines import lines_without_controls
from tools.reports.comparison import RESERVED, STAGES, compare_files
from tools.reports.result_files import find_files, writable
from tools.reports.write import add_report_flags, read_report_options


def named_files(arguments: argparse.Namespace) -> dict[str, list[Path]]:
    """The result files of each run, in the order of the table. Raises UserError for a run without a name or files, or
    for a name that is given twice."""
    given = [(name, files) for name in STAGES if (files := getattr(arguments, name))]
    by_run: dict[str, list[Path]] = {}
    for name, files in [*given, *_named("--run", arguments.run)]:
        if name in by_run or name in RESERVED:
            reason = "is there twice" if name in by_run else "is a name that summary.json needs itself"
            raise UserError(f"--run {name} {reason}; give the run another name")
        by_run[name] = find_files(files)
    if not by_run:
        raise UserError("no run to report; give --run NAME=FILE for each")
    return by_run


def named_controls(arguments: argparse.Namespace) -> dict[str, list[Path]]:
    """The files of --control by run. Raises UserError for files without a run's name, or for a name without files."""
    by_run: dict[str, list[Path]] = {}
    for name, files in _named("--control", arguments.control):
        by_run.setdefault(name, []).extend(find_files(files))
    return by_run


def _named(flag: str, values: Sequence[Sequence[str]]) -> Iterator[tuple[str, list[str]]]:
    """Names and paths in the values of a flag that is given as NAME=FILE FILE."""
    for first, *others in values:
        name, equals, path = first.partition("=")
        if not (equals and name):
            raise UserError(f"{flag} {first} has no name; write {flag} NAME={first}")
        files = [*([path] if path else []), *others]
        if not files:
            raise UserError(f"{flag} {name}= has no files; name its result files or their folder")
        yield writable(name), files


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Flags of the command."""
    parser = CommandParser(prog="python -m tools.compare_results", description="Compare evaluated runs.")
    runs = parser.add_argument_group("runs: result files of evaluate.py or folders of them, the same questions in each")
    runs.add_argument("--run", nargs="+", action="append", default=[], metavar=("NAME=FILE", "FILE"),
                      help="a run and its files; give the flag once per run")  # fmt: skip
    runs.add_argument("--sft", nargs="+", metavar="FILE", help="a run named sft: the policy before GRPO")
    runs.add_argument("--grpo", nargs="+", metavar="FILE", help="a run named grpo: the policy after GRPO")
    runs.add_argument("--blind", nargs="+", metavar="FILE", help="a run named blind: the policy with shuffled images")
    runs.add_argument("--control", nargs="+", action="append", default=[], metavar=("NAME=FILE", "FILE"),
                      help="a run, and its files of the same questions with blank or shuffled images")  # fmt: skip
    runs.add_argument("--baseline", metavar="NAME", help="the run that others are compared with (default: the first)")
    add_report_flags(parser, "Evaluated runs compared")
    clock = parser.add_mutually_exclusive_group()
    clock.add_argument("--seconds", type=float, help="duration of the runs, for summary.json")
    clock.add_argument("--started", type=float, metavar="EPOCH", help="start of the runs, in seconds since 1970: the "
                       "duration is the time until now")  # fmt: skip
    return parser.parse_args(argv)


@reports_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    arguments = parse_arguments(argv)
    options = read_report_options(arguments)
    text = compare_files(
        named_files(arguments),
        options,
        controls=named_controls(arguments),
        baseline=arguments.baseline,
        seconds=arguments.seconds,
        started=arguments.started,
    )
    print(lines_without_controls(text))
    return 0


if __name__ == "__main__":
    sys.exit(main())

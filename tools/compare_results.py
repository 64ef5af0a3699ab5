"""Compare evaluated runs: one table, summary.json, metrics.json and report.html.

    python -m tools.compare_results --run base=result/base --run tuned=result/tuned --output result/report
    python -m tools.compare_results --run A=FILE FILE --run B=FILE FILE --run C=FILE FILE --baseline B --output DIR
    python -m tools.compare_results --sft A/*_results.json --grpo B/*_results.json --blind C/*_results.json --output DIR

Every number is a mean over questions with a 95% bootstrap interval that draws whole patients. Differences are paired
question by question, and McNemar's exact test says if two runs are right equally often. Accuracy is by the training
rule, with the other rules beside it (`utils.metrics`). One extractor reads the graphs of all runs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from swift.utils.errors import UserError, reports_user_errors
from tools.reports.comparison import RESERVED, STAGES, compare_files
from tools.reports.result_files import find_files, writable
from tools.reports.write import add_report_flags, read_report_options


def named_files(arguments: argparse.Namespace) -> dict[str, list[Path]]:
    """The result files of each run, in the order of the table. Raises UserError for a run without a name or files, or
    for a name that is given twice."""
    given = [(name, files) for name in STAGES if (files := getattr(arguments, name))]
    for first, *others in arguments.run:
        name, equals, path = first.partition("=")
        if not (equals and name):
            raise UserError(f"--run {first} has no name; write --run NAME={first}")
        given.append((writable(name), [*([path] if path else []), *others]))
    by_run: dict[str, list[Path]] = {}
    for name, files in given:
        if name in by_run or name in RESERVED:
            reason = "is there twice" if name in by_run else "is a name that summary.json needs itself"
            raise UserError(f"--run {name} {reason}; give the run another name")
        if not files:
            raise UserError(f"--run {name}= has no files; name its result files or their folder")
        by_run[name] = find_files(files)
    if not by_run:
        raise UserError("no run to report; give --run NAME=FILE for each")
    return by_run


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Flags of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.compare_results", description="Compare evaluated runs.", allow_abbrev=False
    )
    runs = parser.add_argument_group("runs: result files of evaluate.py or folders of them, the same questions in each")
    runs.add_argument("--run", nargs="+", action="append", default=[], metavar=("NAME=FILE", "FILE"),
                      help="a run and its files; give the flag once per run")  # fmt: skip
    runs.add_argument("--sft", nargs="+", metavar="FILE", help="a run named sft: the policy before GRPO")
    runs.add_argument("--grpo", nargs="+", metavar="FILE", help="a run named grpo: the policy after GRPO")
    runs.add_argument("--blind", nargs="+", metavar="FILE", help="a run named blind: the policy with shuffled images")
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
    print(
        compare_files(
            named_files(arguments),
            options,
            baseline=arguments.baseline,
            seconds=arguments.seconds,
            started=arguments.started,
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

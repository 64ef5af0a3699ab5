"""Summarize a sweep: one table over all of its runs, and plots.

    python -m tools.summarize output/sweep
    python -m tools.summarize output/sweep --baseline external_r1v_acc --output DIR

A row is a setting: its mean over seeds, and in brackets the 95% interval over patients. Differences to the baseline are
paired question by question. The baseline is the same setting, trained with the accuracy reward alone. The best value of
a column carries a star. Runs that failed or are missing are named in their row and do not enter its numbers. Writes
summary.{json,md,csv,tex,html}, sizes.png and steps.png.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from swift.utils.errors import reports_user_errors
from swift.utils.files import write_json, write_text
from swift.utils.flag_limits import CommandParser
from swift.utils.lines import without_controls
from swift.utils.logger import get_logger
from tools.reports.tables import align, escape_markdown, to_csv, to_latex, to_markdown
from tools.sweeps.plots import draw_sizes, draw_steps
from tools.sweeps.summary import BASELINE, as_document, read_sweep, summarize_sweep
from tools.sweeps.table import sweep_caption, sweep_numbers, sweep_page, sweep_table

logger = get_logger()


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Flags of the command."""
    parser = CommandParser(prog="python -m tools.summarize", description="Summarize the runs of a sweep.")
    parser.add_argument("sweep", type=Path, help="folder of the sweep, as train_loop.sh wrote it")
    parser.add_argument("--output", type=Path, help="folder for the summary (default: the sweep's folder)")
    parser.add_argument("--baseline", default=BASELINE, metavar="REWARDS",
                        help=f"rewards of the runs to compare with (default: {BASELINE})")  # fmt: skip
    return parser.parse_args(argv)


@reports_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    arguments = parse_arguments(argv)
    output = arguments.output or arguments.sweep
    runs, clusters = read_sweep(arguments.sweep)
    rows = summarize_sweep(runs, clusters, arguments.baseline)
    table = sweep_table(rows, arguments.baseline)
    caption = sweep_caption(rows, len(clusters), len(set(clusters)))
    drawn = [draw_sizes(rows, output / "sizes.png"), draw_steps(rows, output / "steps.png")]
    pictures = [picture for picture in drawn if picture is not None]
    write_json(output / "summary.json", {"questions": len(clusters), "rows": as_document(rows)})
    write_text(output / "summary.csv", to_csv(sweep_numbers(rows)))
    write_text(output / "summary.md", f"{to_markdown(table)}\n{escape_markdown(caption)}\n")
    write_text(output / "summary.tex", to_latex(table, caption))
    write_text(output / "summary.html", sweep_page(table, caption, pictures))
    print(f"{align(table)}\n\n{without_controls(caption)}")
    if not any(row.differences for row in rows):
        logger.info("no run was trained with %s alone, so there are no differences to it", arguments.baseline)
    logger.info("wrote summary.{json,md,csv,tex,html} and %d pictures to %s", len(pictures), output)
    return 0


if __name__ == "__main__":
    sys.exit(main())

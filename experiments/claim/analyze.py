"""Compute every number of docs/experiment.md from the result tables.

    python -m experiments.claim.analyze                               print the verdicts
    python -m experiments.claim.analyze --write docs/experiment.md    also write the document's tables and plots

Needs nothing but experiments/claim/plan.json and experiments/claim/results/, so it runs where no run was ever made. The
same results give the same bytes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.claim.comparisons import Comparison, compare_all
from experiments.claim.effects import draw_effects
from experiments.claim.plan import ClaimPlan, plan_parser, read_plan
from experiments.claim.report import (
    EFFECTS_PLOT,
    SIZES_PLOT,
    STEPS_PLOT,
    all_sections,
    as_sweep,
    fill_sections,
)
from experiments.claim.tables import (
    HOME,
    QuestionsByWorld,
    TablesByTag,
    read_asked_questions,
    read_run_table,
    write_records,
)
from swift.utils.errors import UserError, reports_user_errors
from swift.utils.files import try_read_json, write_text
from swift.utils.logger import get_logger
from tools.sweeps.plots import draw_sizes, draw_steps
from tools.sweeps.summary import summarize_sweep

logger = get_logger()


def read_tables(plan: ClaimPlan, results: Path, questions: QuestionsByWorld) -> TablesByTag:
    """The tables of all measured runs, by tag. Raises UserError if there are none."""
    read = {run.tag: read_run_table(results, run.tag, questions) for run in plan.runs()}
    tables = {tag: table for tag, table in read.items() if table is not None}
    if not tables:
        raise UserError(f"{results} has no table of a run of the plan; measure runs, or name another --results")
    return tables


def draw_plots(
    plan: ClaimPlan, tables: TablesByTag, questions: QuestionsByWorld, compared: Sequence[Comparison], folder: Path
) -> list[Path]:
    """Draw the effects, and the plots of `tools.summarize` from the tables."""
    drawn = [draw_effects(compared, plan["primary"], folder / EFFECTS_PLOT)]
    runs = as_sweep(plan, tables)
    if runs:
        clusters = [row.patient for row in questions[HOME].rows]
        rows = summarize_sweep(runs, clusters)
        drawn += [draw_sizes(rows, folder / SIZES_PLOT), draw_steps(rows, folder / STEPS_PLOT)]
    return [path for path in drawn if path is not None]


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Flags of the command."""
    parser = plan_parser("analyze", "Analyze the results.")
    parser.add_argument("--write", type=Path, metavar="DOCUMENT", help="fill in this document, and draw its plots")
    return parser.parse_args(argv)


@reports_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    arguments = parse_arguments(argv)
    plan = read_plan(arguments.plan)
    questions = read_asked_questions(arguments.results)
    tables = read_tables(plan, arguments.results, questions)
    compared = compare_all(plan, tables, questions)
    machine = try_read_json(arguments.results / "machine.json") or {}
    sections = all_sections(plan, tables, questions, compared, machine)
    print("\n\n".join(sections[name] for name in ("runs", "claims", "verdicts")))
    if arguments.write:
        try:
            document = arguments.write.read_text(encoding="utf-8")
        except OSError as error:
            raise UserError(f"--write {arguments.write}: {error.strerror}; restore the document from git") from error
        write_text(arguments.write, fill_sections(document, sections))
        pictures = draw_plots(plan, tables, questions, compared, arguments.write.parent / "images")
        write_records(arguments.results, tables)
        logger.info("wrote %s and %d pictures", arguments.write, len(pictures))
    return 0


if __name__ == "__main__":
    sys.exit(main())

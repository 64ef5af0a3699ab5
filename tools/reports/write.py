"""Files of a report: report.html, the tables and metrics.json, with the flags that every report command has."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from swift.utils.errors import UserError
from swift.utils.files import write_json, write_text
from swift.utils.logger import get_logger
from tools.looking.compute import Looking
from tools.looking.present import looking_document, looking_numbers, looking_table, reliance_table
from tools.reports.evaluation_page import render_report
from tools.reports.numbers import Numbers, metric_number_table, metric_table, metrics_document
from tools.reports.result_files import EvaluatedRun, writable
from tools.reports.tables import to_csv, to_latex, to_markdown
from utils.questions import clusters_in_words, counted

logger = get_logger()


@dataclass(frozen=True)
class ReportOptions:
    """Place and look of a report. ``curves`` is a PNG of training curves to show."""

    output: Path
    title: str = "Evaluation"
    curves: Path | None = None
    embed_images: bool = False


def add_report_flags(parser: argparse.ArgumentParser, title: str) -> None:
    """Add the flags of `read_report_options`, with a default title."""
    output = parser.add_argument_group("output")
    output.add_argument("--output", type=Path, required=True, help="folder for report.html, the tables and the JSON")
    output.add_argument("--title", type=writable, default=title, help=f"heading of the report (default: {title})")
    output.add_argument("--curves", type=Path, metavar="PNG", help="picture of the training curves for the report")
    output.add_argument("--embed_images", action="store_true",
                        help="put radiographs into the report, not only drawn images")  # fmt: skip


def read_report_options(arguments: argparse.Namespace) -> ReportOptions:
    """The values of the flags. Raises UserError if the picture of --curves does not exist."""
    if arguments.curves and not arguments.curves.is_file():
        raise UserError(f"--curves {arguments.curves} does not exist; leave it out or correct the path")
    return ReportOptions(arguments.output, arguments.title, arguments.curves, arguments.embed_images)


def write_report(
    runs: Mapping[str, EvaluatedRun],
    numbers: Numbers,
    looking: Looking,
    labels: Mapping[str, str],
    options: ReportOptions,
) -> None:
    """Write report.html, table.{csv,tex,md} and metrics.json, and looking.{csv,tex,md} if there are controls.
    ``labels`` are the runs' names for readers."""
    page = render_report(
        runs, numbers, looking, labels, options.title, curves=options.curves, embed_images=options.embed_images
    )
    table, folder = metric_table(numbers, labels), options.output
    write_text(folder / "report.html", page)
    write_text(folder / "table.csv", to_csv(metric_number_table(numbers, labels)))
    write_text(folder / "table.tex", to_latex(table, caption=options.title))
    write_text(folder / "table.md", to_markdown(table))
    looking_part = {"looking": looking_document(looking)} if looking else {}
    write_json(folder / "metrics.json", metrics_document(runs, numbers) | looking_part)
    _write_looking_tables(looking, labels, options)
    logger.info("wrote report.html (%.1f MB), table.{csv,tex,md}, %smetrics.json to %s",
                len(page.encode("utf-8")) / 1e6, "looking.{csv,tex,md}, " if looking else "", folder)  # fmt: skip


def _write_looking_tables(looking: Looking, labels: Mapping[str, str], options: ReportOptions) -> None:
    """Write looking.{csv,tex,md}. Without controls, those of an earlier report are removed."""
    paths = {ending: options.output / f"looking.{ending}" for ending in ("csv", "tex", "md")}
    if not looking:
        for path in paths.values():
            path.unlink(missing_ok=True)
        return
    tables = looking_table(looking, labels), reliance_table(looking, labels)
    captions = f"{options.title}: does it look", f"{options.title}: image reliance by kind of question"
    latex = [to_latex(table, caption=caption) for table, caption in zip(tables, captions, strict=True)]
    write_text(paths["csv"], to_csv(looking_numbers(looking, labels)))
    write_text(paths["tex"], "\n".join(latex))
    write_text(paths["md"], "\n".join(map(to_markdown, tables)))


def count_line(run: EvaluatedRun) -> str:
    """The numbers of questions and patients, for the line above a table."""
    return f"{counted(len(run.results), 'question')} about {clusters_in_words(run.results)}; mean [95% interval]"

"""Commands behind tools/00_GT_kg.py, 01_MIMIC_kg.py and 02_hall_kg.py.

The files made from one result or annotation file FILE.json are together, by default in a folder `kg` beside it:

    FILE_gt_kg.json       graphs of its explanations        00_GT_kg.py, or 02_hall_kg.py if they are missing
    FILE_mimic_kg.json    graphs of its studies' reports    01_MIMIC_kg.py
    FILE_hall_kg.json     graphs of its generated texts     02_hall_kg.py
    FILE_kg_metrics.json  the scores                        02_hall_kg.py; kg_metrics.json for several files together

All graphs are in the order of FILE.json. `tools.kg_audit.graph_files` resumes runs that were killed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ReXKG.graph import Graph
from swift.utils.errors import UserError, reports_user_errors
from swift.utils.files import write_json
from swift.utils.flag_limits import CommandParser
from swift.utils.lines import lines_without_controls
from swift.utils.logger import get_logger
from swift.utils.run_info import git_state
from tools.kg_audit.graph_files import NamedTexts, make_graphs, read_graphs, read_graphs_of
from tools.kg_audit.scores import Audited, audit
from tools.kg_audit.table import audit_table
from tools.kg_audit.texts import (
    AuditRow,
    can_be_audited,
    generated_texts,
    read_annotation_file,
    read_audited,
    reasoning_of_row,
    reference_texts,
    report_texts,
    studies_of,
    study_names,
)
from utils.answers import READINGS
from utils.get_knowledge_graph import extractor_name
from utils.intervals import Interval
from utils.mimic import SECTION_NAMES, SECTIONS, SEVERAL, read_reports

TextSource = tuple[Path, list[AuditRow]]

logger = get_logger()


def output_path(source: Path, kind: str, output_dir: Path | None) -> Path:
    """The file made from a result or annotation file. ``kind`` is gt_kg, mimic_kg, hall_kg or kg_metrics."""
    return (output_dir or source.parent / "kg") / f"{source.stem}_{kind}.json"


@reports_user_errors
def reference_graphs(argv: Sequence[str] | None = None) -> int:
    """00_GT_kg.py: make graphs of the explanations of result or annotation files."""
    parser = _Parser("tools/00_GT_kg.py", "Graphs of the references: the reasoning of each question's explanation.")
    parser.add_sources(required=True)
    arguments = parser.parse(argv)
    for path, rows in _read_sources(arguments):
        if can_be_audited(rows, path):
            _make(path, "gt_kg", reference_texts(rows, path), arguments)
    return 0


@reports_user_errors
def report_graphs(argv: Sequence[str] | None = None) -> int:
    """01_MIMIC_kg.py: make graphs of radiology reports, of the questions' studies or of a whole source."""
    parser = _Parser("tools/01_MIMIC_kg.py", "Graphs of the reports of the questions' studies, or of all reports.")
    parser.add_argument("--reports", type=Path, required=True, metavar="PATH",
                        help="folder of .txt reports (MIMIC-CXR's files/), or a .csv, .json or .jsonl")  # fmt: skip
    parser.add_argument("--sections", nargs="+", default=SECTIONS, choices=SECTION_NAMES, metavar="NAME",
                        help=f"sections: {', '.join(SECTION_NAMES)} (default: {' '.join(SECTIONS)})")  # fmt: skip
    parser.add_argument("--several", choices=SEVERAL, default=SEVERAL[0],
                        help=f"different texts of one study: {', '.join(SEVERAL)} (default: {SEVERAL[0]})")  # fmt: skip
    parser.add_sources(required=False)
    arguments = parser.parse(argv)
    sources = _read_sources(arguments)
    wanted = {study for _, rows in sources for row in rows for study in studies_of(row)} if sources else None
    try:
        reports = read_reports(arguments.reports, wanted, arguments.sections, arguments.several)
    except ValueError as error:
        raise UserError(str(error)) from error
    if not reports:
        raise UserError(f"--reports {arguments.reports} has no report of these studies; name another source")
    for path, rows in sources:
        texts = report_texts(rows, path, reports)
        if missing := texts.texts.count(""):
            logger.warning("%d of %d questions of %s have no report", missing, len(rows), path)
        _make(path, "mimic_kg", texts, arguments)
    if not sources:
        texts = NamedTexts(list(reports), list(reports.values()), str(arguments.reports))
        _make(arguments.reports, "mimic_kg", texts, arguments)
    return 0


@reports_user_errors
def hallucination_audit(argv: Sequence[str] | None = None) -> int:
    """02_hall_kg.py: make graphs of a run's generated texts, and audit them against the references."""
    parser = _Parser("tools/02_hall_kg.py", "Audit the reasoning of a run: facts that it invents and leaves out.")
    parser.add_argument("--results", type=Path, nargs="+", required=True, metavar="FILE",
                        help="result files of evaluate.py; several of one run are audited together")  # fmt: skip
    parser.add_argument("--ground_truth", type=Path, nargs="+", metavar="FILE",
                        help="graphs of the explanations, one file each (default: those of 00_GT_kg.py)")  # fmt: skip
    parser.add_argument("--report_graphs", type=Path, nargs="+", metavar="FILE",
                        help="graphs of the studies' reports by 01_MIMIC_kg.py, one file each")  # fmt: skip
    parser.add_argument("--kg_text", choices=READINGS, default="think",
                        help="part of a generated text to read (default: think)")  # fmt: skip
    parser.add_argument("--metrics", type=Path, metavar="FILE",
                        help="default: FILE_kg_metrics.json, or kg_metrics.json for several files")  # fmt: skip
    arguments = parser.parse(argv)
    sources = _read_sources(arguments)
    facts = _check_run(sources, arguments)
    audited = _collect(sources, arguments)
    if not audited.results:
        return 0
    scores = audit(audited)
    path = output_path(arguments.results[0], "kg_metrics", arguments.output_dir)
    if len(sources) > 1:
        path = path.with_name("kg_metrics.json")
    path = arguments.metrics or path
    write_json(path, _plain(facts | scores))
    print(lines_without_controls(audit_table(scores)))
    logger.info("wrote %s; graphs by %s", path, facts["extractor"])
    return 0


def _check_run(sources: Sequence[TextSource], arguments: argparse.Namespace) -> dict[str, Any]:
    """The facts of an audit for its record. Raises UserError if the files are not those of one run."""
    paths = [str(path) for path, _ in sources]
    if len(set(paths)) < len(paths):
        raise UserError("--results names a file twice; name each once")
    for flag in ("ground_truth", "report_graphs"):
        given = getattr(arguments, flag)
        if given and len(given) != len(paths):
            raise UserError(f"--{flag} names {len(given)} files for {len(paths)} result files; name one for each")
    runs = {(str(row["checkpoint"]), str(row["control"])) for _, rows in sources for row in rows}
    if len(runs) > 1:
        one, other, *_ = sorted(runs)
        raise UserError(
            f"--results names files of {len(runs)} runs (checkpoint {one[0]}, control {one[1]}; checkpoint {other[0]}, "
            f"control {other[1]}); audit each run by itself"
        )
    ((checkpoint, control),) = runs
    return {
        "results": paths,
        "checkpoint": checkpoint,
        "control": control,
        "extractor": extractor_name(),
        "kg_text": arguments.kg_text,
        "git": git_state(),
    }


def _collect(sources: Sequence[TextSource], arguments: argparse.Namespace) -> Audited:
    """Make or read the graphs of all result files, in order, and take those of questions that have reasoning to compare
    with."""
    results: list[AuditRow] = []
    predicted: list[Graph] = []
    references: list[Graph] = []
    reports: list[Graph | None] = []
    for number, (path, rows) in enumerate(sources):
        if not can_be_audited(rows, path):
            continue
        truth = reference_texts(rows, path)
        if arguments.ground_truth:
            references += read_graphs_of(arguments.ground_truth[number], truth.names, truth)
        else:
            references += read_graphs(_make(path, "gt_kg", truth, arguments))
        generated = generated_texts(rows, path, READINGS[arguments.kg_text])
        predicted += read_graphs(_make(path, "hall_kg", generated, arguments))
        if arguments.report_graphs:
            graphs = read_graphs_of(arguments.report_graphs[number], study_names(rows))
            reports += [graph if graph["sentences"] else None for graph in graphs]
        else:
            reports += [None] * len(rows)
        results += rows
    counted = [place for place, row in enumerate(results) if reasoning_of_row(row) is not None]
    return Audited(*([part[place] for place in counted] for part in (results, predicted, references, reports)))


class _Parser(CommandParser):
    """Flags that the commands share."""

    def __init__(self, prog: str, description: str):
        super().__init__(prog=prog, description=description)
        output = self.add_argument_group("output")
        output.add_argument("--output_dir", type=Path, metavar="DIR", help="default: a folder kg beside each file")
        output.add_argument("--resume", action=argparse.BooleanOptionalAction, default=True,
                            help="keep finished graphs and resume unfinished ones (default)")  # fmt: skip
        output.add_argument("--overwrite", action="store_true",
                            help="replace graphs of other texts or of another extractor")  # fmt: skip

    def add_sources(self, required: bool) -> None:
        """Add the flags that name questions."""
        sources = self.add_mutually_exclusive_group(required=required)
        sources.add_argument("--results", type=Path, nargs="+", metavar="FILE", help="result files of evaluate.py")
        sources.add_argument("--annotation_file", type=Path, nargs="+", metavar="FILE",
                             help="annotation or training files")  # fmt: skip

    def parse(self, argv: Sequence[str] | None) -> argparse.Namespace:
        """The flags. Raises UserError for wrong flags, and if no extractor can be used."""
        arguments = self.parse_args(argv)
        try:
            extractor_name()
        except ValueError as error:
            raise UserError(str(error)) from error
        return arguments


def _read_sources(arguments: argparse.Namespace) -> list[TextSource]:
    read: Callable[[Path], list[AuditRow]] = read_audited if arguments.results else read_annotation_file
    return [(path, read(path)) for path in arguments.results or arguments.annotation_file or ()]


def _make(source: Path, kind: str, texts: NamedTexts, arguments: argparse.Namespace) -> Path:
    path = output_path(source, kind, arguments.output_dir)
    make_graphs(path, texts, resume=arguments.resume, overwrite=arguments.overwrite)
    return path


def _plain(value: Any) -> Any:
    """``value`` with its intervals as JSON."""
    if isinstance(value, Interval):
        return value.as_dict()
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value

"""Readers of reports as in MIMIC-CXR, and of the sections of a report that describe the findings.

A report is found by its study. Three kinds of source are read:

    folder      folders of any depth with one text file per study, s<study_id>.txt or <study_id>.txt
    .csv        one row per study: ``study_id`` (or ``study``), and ``report`` (or ``text``), or ``findings`` and
                ``impression``, with ``last_paragraph`` for reports that have neither (MIMIC-CXR's sectioned file)
    .json(l)    a list of such objects, or one per line
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from utils.questions import identifier_text

SECTIONS = ("findings", "impression")
STUDY_FIELDS = ("study_id", "study")
REPORT_FIELDS = ("report", "text")
SEVERAL = ("refuse", "join", "first", "last")  # what becomes of different texts of one study

# Headings by the section that they open. Any other heading ("LUNGS:") opens no section.
_NAMES = {
    "findings": "findings?|findings?(?: and |/)impressions?|report",
    "impression": "impressions?|conclusions?|impressions?(?: and |/)recommendations?",
    "history": "(?:(?:clinical|patient|provided|relevant) ){0,2}(?:history|information|indications?|data|question)"
    "|signs(?: and |/)symptoms|symptoms?|reasons?(?: for (?:the )?(?:exam(?:ination)?|study))?",
    "examination": "exam(?:ination)?|study|type of exam(?:ination)?|procedures?|techniques?|views?",
    "comparison": "comparisons?(?: stud(?:y|ies))?",
    "recommendation": "recommendations?",
    "notification": "notifications?|wet read|addendum|final addendum|preliminary report",
}
SECTION_NAMES = tuple(_NAMES)
# Words that stand in capitals at the beginning of a line, or before a colon within one, without being a heading
_COMMON = {
    "findings": "findings?|findings?(?: and |/)impressions?",
    "history": "(?:(?:clinical|patient|provided|relevant) ){0,2}(?:history|information|indications?)"
    "|(?:clinical|patient) (?:data|question)|signs(?: and |/)symptoms|reasons? for (?:the )?(?:exam(?:ination)?|study)",
    "examination": "exam(?:ination)?|techniques?",
}
_MARK = r"(?:\*\*|__|</?(?:b|strong)>|#{1,6}[ \t]){0,2}"  # bold type and headings in Markdown and HTML


def _any_of(names: Mapping[str, str]) -> str:
    return "|".join(f"(?P<{section}>{words})" for section, words in names.items())


_LOOSE = _NAMES | _COMMON
_CAPITALS = "|".join(f"(?P<{section}>{words.upper()})" for section, words in _LOOSE.items())
_HEADINGS = (
    # alone on a line, or before a colon at its beginning
    re.compile(
        rf"^[ \t]*+{_MARK}(?:{_any_of(_NAMES)})[ \t]*+{_MARK}(?:[ \t]*+:{_MARK}|[ \t]*+$)", re.IGNORECASE | re.MULTILINE
    ),
    # in capitals or bold at the beginning of a line, without a colon
    re.compile(rf"^[ \t]*+{_MARK}(?:{_CAPITALS}){_MARK}[ \t-]++(?=\S)", re.MULTILINE),
    re.compile(
        rf"^[ \t]*+(?:\*\*|__|<b>|<strong>)(?:{_any_of(_NAMES)})(?:\*\*|__|</b>|</strong>)", re.IGNORECASE | re.M
    ),
    # within a line: in capitals before a colon, or with one capital or in bold after the end of a sentence
    re.compile(rf"(?<![A-Za-z]){_MARK}(?:{_CAPITALS})[ \t]*+{_MARK}[ \t]*+:{_MARK}"),
    re.compile(
        rf"(?<=[.!?:;*>])[ \t]++{_MARK}(?=(?-i:[A-Z]))(?:{_any_of(_LOOSE)})[ \t]*+{_MARK}[ \t]*+:{_MARK}", re.IGNORECASE
    ),
)
_PARAGRAPH_END = re.compile(r"\n[ \t]*(?:\n[ \t]*)+")


def split_sections(report: str) -> dict[str, str]:
    """The report's text by section: findings, impression, history, examination, comparison, recommendation,
    notification. The parts of a section that occurs twice are joined. A report without headings gives an empty
    dictionary.

    A heading may stand on a line of its own, at the beginning of a line or within one, with or without a colon, in
    capitals or in bold.
    """
    headings = _headings(report)
    ends = [*(heading.start() for heading in headings), len(report)][1:]
    sections: dict[str, str] = {}
    for heading, end in zip(headings, ends, strict=True):
        text = report[heading.end() : end].strip()
        name = heading.lastgroup
        sections[name] = join_texts([sections.get(name, ""), text])
    return {name: text for name, text in sections.items() if text}


def _headings(report: str) -> list[re.Match[str]]:
    """All headings in their order. Of those that overlap, the one that begins first."""
    found = sorted(
        (match for pattern in _HEADINGS for match in pattern.finditer(report)),
        key=lambda match: (match.start(match.lastgroup), -match.end()),
    )
    headings: list[re.Match[str]] = []
    for match in found:
        if not headings or match.start(match.lastgroup) >= headings[-1].end():
            headings.append(match)
    return headings


def report_text(report: str, sections: Sequence[str] = SECTIONS) -> str:
    """The part of a report that describes the findings: the named sections, or the last paragraph that is not another
    section if the report has none of them. Empty if it has no such paragraph either."""
    by_name = split_sections(report)
    chosen = join_texts(by_name.get(name, "") for name in sections)
    if chosen:
        return chosen
    return next((text for text in map(_unheaded, reversed(_PARAGRAPH_END.split(report))) if text), "")


def _unheaded(paragraph: str) -> str:
    """The text of a paragraph before its first heading."""
    headings = _headings(paragraph)
    return paragraph[: headings[0].start()].strip() if headings else paragraph.strip()


def join_texts(texts: Iterable[str]) -> str:
    """Join the texts that are not empty. Each ends in a full stop, so that sentences of two texts are not merged."""
    stripped = (text.strip() for text in texts)
    return "\n".join(text if text.endswith((".", "!", "?")) else f"{text}." for text in stripped if text)


def study_key(study: Any) -> str:
    """One name for the ways a study is written: "s50414267", 50414267 and 50414267.0 are "50414267"."""
    return identifier_text(study, letter="s")


def read_reports(
    source: str | Path,
    studies: Iterable[Any] | None = None,
    sections: Sequence[str] = SECTIONS,
    several: str = "refuse",
) -> dict[str, str]:
    """`report_text` of each study by its `study_key`, in the source's order. If ``studies`` are given, only theirs.

    ``several`` says what becomes of different texts of one study: refuse, join, first or last. Raises ValueError naming
    file and row if a source cannot be read, or if two reports of one study differ and are refused.
    """
    path = Path(source)
    wanted = None if studies is None else {study_key(study) for study in studies}
    if path.is_dir():
        return _read_folder(path, wanted, sections, several)
    readers = {".csv": _csv_rows, ".json": _json_rows, ".jsonl": _json_rows}
    if path.suffix.lower() not in readers:
        raise ValueError(f"reports {path}: give a folder of .txt reports, or a .csv, .json or .jsonl file of them")
    reports: dict[str, str] = {}
    try:
        for where, row in readers[path.suffix.lower()](path):
            study, text = _parse_row(row, sections, f"reports {path}, {where}")
            if wanted is None or study in wanted:
                _add(reports, study, text, f"reports {path}, {where}", several)
    except (OSError, UnicodeDecodeError, csv.Error, json.JSONDecodeError) as error:
        raise ValueError(f"reports {path} cannot be read ({error}); fix the file") from error
    return reports


class Reports:
    """Reports by study. Tables are read now. Of a folder, which may hold hundreds of thousands of files, only the names
    are; a report is read when it is asked for.

    Raises ValueError as `read_reports` does.
    """

    def __init__(self, source: str | Path) -> None:
        path = Path(source)
        self._texts: dict[str, str] = {} if path.is_dir() else read_reports(path)
        self._files = {study_key(file.stem): file for file in path.rglob("*.txt")} if path.is_dir() else {}

    def find(self, study: Any) -> str | None:
        """The `report_text` of a study, None if there is none."""
        key = study_key(study)
        if key not in self._texts and key in self._files:
            self._texts[key] = _read_file(self._files[key], SECTIONS)
        return self._texts.get(key)


def find_reports(count: int, columns: Mapping[str, Sequence[Any]], reports: Reports | None) -> list[str | None]:
    """The report of each of ``count`` records, None if it has none: `report_text` of the column ``report``, else the
    report of the column ``study_id`` among ``reports``.

    Raises ValueError if there is neither source.
    """
    own, studies = columns.get("report"), columns.get("study_id") if reports else None
    if own is None and studies is None:
        raise ValueError("external_kg_report needs the column report, or the column study_id and KG_REPORTS=FOLDER")
    texts: list[str | None] = []
    for report, study in zip(own or [None] * count, studies or [None] * count, strict=True):
        if isinstance(report, str) and report.strip():
            texts.append(report_text(report))
        else:
            texts.append(reports.find(study) if reports and study is not None else None)
    return texts


def reports_missing(rows: Sequence[Mapping[str, Any]], reports: Reports | None) -> str | None:
    """In words, how many of the records with these columns have no report by `find_reports`; None if all have one."""
    columns = {name: [row.get(name) for row in rows] for name in ("report", "study_id")}
    missing = find_reports(len(rows), columns, reports).count(None)
    remedy = "add the column report, or study_id and KG_REPORTS=FOLDER"
    return f"{missing} of {len(rows)} records have no report to compare with; {remedy}" if missing else None


def _read_file(path: Path, sections: Sequence[str]) -> str:
    try:
        text = path.read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        raise ValueError(f"report {path} cannot be read ({error}); fix its permissions") from error
    return report_text(text, sections)


def _read_folder(folder: Path, wanted: set[str] | None, sections: Sequence[str], several: str) -> dict[str, str]:
    reports: dict[str, str] = {}
    for path in sorted(folder.rglob("*.txt")):
        study = study_key(path.stem)
        if wanted is not None and study not in wanted:
            continue
        _add(reports, study, _read_file(path, sections), f"report {path}", several)
    return reports


def _add(reports: dict[str, str], study: str, text: str, where: str, several: str) -> None:
    """Add a report. Tables with one row per image repeat it. Different reports of one study are treated as ``several``
    says."""
    before = reports.setdefault(study, text)
    if before == text or several == "first" or (several == "join" and text in before):
        return
    if several == "refuse":
        raise ValueError(
            f"{where}: study {study} comes twice with different texts; keep one, or choose with --several "
            f"{', '.join(SEVERAL[1:])}"
        )
    reports[study] = text if several == "last" else join_texts([before, text])


def _csv_rows(path: Path) -> Iterable[tuple[str, Mapping[str, Any]]]:
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        for row in reader:
            yield f"line {reader.line_num}", row


def _json_rows(path: Path) -> Iterable[tuple[str, Any]]:
    text = path.read_text(encoding="utf-8-sig")
    if text.lstrip().startswith("["):
        yield from ((f"record {number}", row) for number, row in enumerate(json.loads(text)))
        return
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"reports {path}, line {number}: not JSON ({error}); fix the line") from error
        yield f"line {number}", row


def _parse_row(row: Any, sections: Sequence[str], where: str) -> tuple[str, str]:
    """(study, text) of one row of a table."""
    if not isinstance(row, Mapping):
        raise ValueError(
            f"{where}: a report is an object with {STUDY_FIELDS[0]} and {REPORT_FIELDS[0]}, not {row!r:.60}"
        )
    study = next((row[field] for field in STUDY_FIELDS if row.get(field) not in (None, "")), None)
    if study is None:
        raise ValueError(f"{where}: no field {' nor '.join(STUDY_FIELDS)}; name the study that the report is of")
    raw = next((field for field in REPORT_FIELDS if field in row), None)
    if raw is None and not any(field in row for field in (*SECTIONS, "last_paragraph")):
        raise ValueError(f"{where}: no field {' nor '.join((*REPORT_FIELDS, *SECTIONS))}; add the report's text")
    if raw is not None:
        return study_key(study), report_text(_cell(row, raw, where), sections)
    chosen = join_texts(_cell(row, name, where) for name in sections)
    return study_key(study), chosen or _cell(row, "last_paragraph", where).strip()


def _cell(row: Mapping[str, Any], field: str, where: str) -> str:
    """A text field, empty if it is absent or null (NaN in tables that pandas wrote)."""
    value = row.get(field)
    if value is None or value != value:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"{where}: field '{field}' must be text, it is {value!r:.60}")
    return value

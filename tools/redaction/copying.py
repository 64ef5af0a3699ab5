"""Lists of what the files of a folder hold, and copies of folders without patient data."""

from __future__ import annotations

import json
import os
import shutil
import stat
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swift.utils.errors import UserError
from swift.utils.files import write_json
from tools.redaction.check import find_leaks
from tools.redaction.files import UNKNOWN_FILE, FileKind, kind_of
from tools.redaction.names import Pseudonyms
from tools.redaction.rules import DROP, FIELD_KINDS, UNKNOWN_DATA, Notes

FLOATS = {"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"}
_LONGEST_HEADER = 100_000_000


@dataclass
class FileReport:
    """One file of a folder: its kind, what of it must not be shared by field, and why it is left out, if it is."""

    path: Path  # within the folder
    kind: FileKind
    records: int = 0  # results or lines; 0 if the file has none
    withheld: Counter[str] = field(default_factory=Counter)
    left_out: str = ""
    kept: bool = False  # in the copy

    @property
    def holds(self) -> list[str]:
        """The kinds of patient data in the file, sorted."""
        if self.kind.rule is None or self.left_out:
            return sorted(self.kind.holds or UNKNOWN_FILE.holds if self.left_out else self.kind.holds)
        return sorted({FIELD_KINDS.get(name, UNKNOWN_DATA) for name in self.withheld})


def list_folder(source: Path) -> list[FileReport]:
    """Report on every file of a folder. Nothing is written. Raises UserError if it is not a folder."""
    return [_read(path, source, Pseudonyms())[0] for path in _files(source)]


def redact_folder(source: Path, target: Path, keep_weights: bool = False) -> list[FileReport]:
    """Write a copy of ``source`` without patient data to the new folder ``target``.

    Raises UserError if ``target`` exists or lies within ``source``, and if a text, path or identifier of the source is
    found in the copy. Then no copy is left.
    """
    if target.exists() or target.is_symlink():
        raise UserError(f"--redact {target} exists already; name a new folder")
    if target.resolve().is_relative_to(source.resolve()):
        raise UserError(f"--redact {target} lies within {source}; name a folder outside of it")
    temporary = target.with_name(f".{os.getpid()}.copy")
    names, reports = Pseudonyms(), []
    try:
        temporary.mkdir(parents=True)
        for path in _files(source):
            report, content = _read(path, source, names)
            place = temporary / names.path(report.path)
            if content is not None:
                _write(place, content)
                report.kept = True
            elif report.kind.is_weights and keep_weights and not report.left_out:
                report.kept = _copy_weights(path, place, report)
            reports.append(report)
        if leaks := find_leaks(source, temporary):
            raise UserError(f"{source}: {leaks[0]} would be in the copy, which is removed; report this")
        temporary.rename(target)
    except OSError as error:
        raise UserError(f"--redact {target} cannot be written ({error.strerror}); name another folder") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return reports


def _files(source: Path) -> Iterator[Path]:
    """All files below a folder, links to folders included, in order. Links are not followed."""
    if not source.is_dir():
        raise UserError(f"{source} is not a folder; name a run folder or a result folder")
    for folder, folders, files in os.walk(source):
        folders.sort()
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        yield from (Path(folder, name) for name in sorted([*files, *links]))


def _read(path: Path, source: Path, names: Pseudonyms) -> tuple[FileReport, Any]:
    """Read a file. Returns its report, and its content for the copy, None if it is left out."""
    report = FileReport(path.relative_to(source), kind_of(path.relative_to(source)))
    if not stat.S_ISREG(path.lstat().st_mode):
        report.kind, report.left_out = UNKNOWN_FILE, "not a regular file"
        return report, None
    if report.kind.rule is None:
        return report, None
    notes = Notes(names)
    try:
        content = _read_lines(path, report, notes) if report.kind.lines else _read_document(path, report, notes)
    except (OSError, ValueError, RecursionError) as error:
        report.left_out = "cannot be read: " + (" ".join(str(error).split()) or type(error).__name__)[:200]
        return report, None
    report.withheld = +notes.withheld
    return report, content


def _read_document(path: Path, report: FileReport, notes: Notes) -> Any:
    document = json.loads(path.read_text(encoding="utf-8"))
    results = document.get("results") if isinstance(document, dict) else None
    report.records = len(results) if isinstance(results, list) else 0
    passed = report.kind.rule(document, UNKNOWN_DATA, notes)
    if passed is DROP:
        raise ValueError(f"it is not a file of {report.kind.name}")
    return passed


def _read_lines(path: Path, report: FileReport, notes: Notes) -> list[Any]:
    rows = []
    with path.open("rb") as file:
        for line in file:
            report.records += 1
            try:
                row = report.kind.rule(json.loads(line.decode("utf-8")), UNKNOWN_DATA, notes)
            except (ValueError, RecursionError):
                notes.withheld[UNKNOWN_DATA] += 1  # a line that was cut off by a kill
                continue
            rows += [] if row is DROP else [row]
    return rows


def _write(place: Path, content: Any) -> None:
    if place.suffix == ".jsonl":
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")
    else:
        write_json(place, content)


def _copy_weights(path: Path, place: Path, report: FileReport) -> bool:
    """Copy a safetensors file of numbers, without the texts of its header. False if it is not one."""
    with path.open("rb") as file:
        size = struct.unpack("<Q", file.read(8).ljust(8, b"\0"))[0]
        header = json.loads(file.read(size)) if size < _LONGEST_HEADER else None
        kept = {name: entry for name, entry in header.items() if name != "__metadata__"} if header else {}
        if not kept or any(entry.get("dtype") not in FLOATS for entry in kept.values()):
            report.left_out = "not weights of floating-point numbers"
            return False
        text = json.dumps(kept).encode()
        text += b" " * (-len(text) % 8)
        place.parent.mkdir(parents=True, exist_ok=True)
        with place.open("wb") as copy:
            copy.write(struct.pack("<Q", len(text)) + text)
            shutil.copyfileobj(file, copy)
    return True

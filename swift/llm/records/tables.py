"""Tables of records: CSV, TSV and Parquet, one record a row, as pandas, Excel, the datasets library and ms-swift write
them.

A cell of CSV is text. Lists and objects in it are read as JSON, or as the Python that pandas writes for them, and True
and False are truth values. Values of Parquet become what JSON has: bytes become base64, and dates text. An empty cell
is a missing value in all of them, and an empty row is none.
"""

from __future__ import annotations

import ast
import base64
import csv
import io
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from swift.utils.errors import UserError

SEPARATORS = {".csv": ",", ".tsv": "\t"}
TABLE_SUFFIXES = {*SEPARATORS, ".parquet"}
PARQUET = b"PAR1"  # first bytes of a file
UNREADABLE = {b"\x1f\x8b": "is compressed; unpack it", b"ARROW1": "is an Arrow file; save it as Parquet or JSON lines",
              b"PK\x03\x04": "is a zip archive or an Excel workbook; unpack it, or save it as CSV"}  # fmt: skip
_TEXT = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
_NUMPY_TEXTS = re.compile(rf"\[\s*{_TEXT}(?:\s+{_TEXT})+\s*\]")  # an array of texts, which has no commas
_TRUTH = {"True": True, "False": False}


def is_table(path: Path) -> bool:
    """True if the file is a table, by its first byte or else by its name. Raises UserError for a file that cannot be
    read here, such as a compressed one."""
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError as error:
        raise UserError(f"dataset {path} cannot be read ({error.strerror}); fix its permissions") from error
    if problem := next((words for magic, words in UNREADABLE.items() if start.startswith(magic)), None):
        raise UserError(f"dataset {path} {problem}")
    looks_like_json = start.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"{", b"[")
    return start.startswith(PARQUET) or (path.suffix.lower() in TABLE_SUFFIXES and not looks_like_json)


def read_table(path: Path) -> list[tuple[dict[str, Any], str]]:
    """The rows of the table, each with its name for messages. Raises UserError for a file that is not such a table."""
    with path.open("rb") as file:
        is_parquet = path.suffix.lower() == ".parquet" or file.read(len(PARQUET)) == PARQUET
    rows = _read_parquet(path) if is_parquet else _read_csv(path)
    return [
        ({name: value for name, value in row.items() if value is not None}, f"{path} record {index}")
        for index, row in enumerate(rows)
    ]


def read_text(path: Path, newline: str | None = None) -> str:
    """The text of a file, with ``newline`` as `open` takes it. Raises UserError if it is not UTF-8 or not readable."""
    try:
        with path.open(encoding="utf-8-sig", newline=newline) as file:
            return file.read()
    except UnicodeDecodeError as error:
        raise UserError(f"dataset {path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    except OSError as error:
        raise UserError(f"dataset {path} cannot be read ({error.strerror}); fix its permissions") from error


def _read_csv(path: Path) -> list[dict[str, Any]]:
    csv.field_size_limit(sys.maxsize)  # a cell may hold a report
    text, separator = read_text(path, newline=""), SEPARATORS[path.suffix.lower()]
    if named := re.match(r"sep=(.)\r?\n", text):  # Excel's own line
        text, separator = text[named.end() :], named[1]
    header = text.partition("\n")[0]
    if separator not in header:  # Excel writes semicolons where the comma is in numbers
        separator = next((other for other in (";", "\t", ",", "|") if other in header), separator)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        rows = [(reader.line_num, cells) for cells in reader]
    except csv.Error as error:
        raise UserError(
            f"dataset {path} is malformed at line {reader.line_num} ({error}); double the quotes within quoted cells"
        ) from error
    names = [name.strip() for name in rows[0][1]] if rows else []
    _check_names(path, names)
    for line, cells in rows:
        if any(cells[len(names) :]):
            raise UserError(f"dataset {path} has more cells than columns at line {line}; quote cells with separators")
    filled = [cells for _, cells in rows[1:] if any(cells)]
    return [{name: _cell(text) for name, text in zip(names, cells, strict=False) if name} for cells in filled]


def _check_names(path: Path, names: Sequence[str]) -> None:
    """Raise UserError for a column that is there twice. Columns without a name are not read."""
    twice = next((name for name, count in Counter(filter(None, names)).items() if count > 1), None)
    if twice is not None:
        raise UserError(f"dataset {path} has two columns {twice!r}; rename or remove one")


def _cell(text: str) -> Any:
    """The value of a CSV cell: None if it is empty, a list or an object if it is one, True or False, else the text."""
    if not text:
        return None
    if text in _TRUTH:
        return _TRUTH[text]
    if (text[0], text[-1]) in (("[", "]"), ("{", "}")):
        if _NUMPY_TEXTS.fullmatch(text):
            return [ast.literal_eval(part) for part in re.findall(_TEXT, text)]
        for parse in (json.loads, ast.literal_eval):
            try:
                return _as_json(parse(text))
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue
    return text


def _read_parquet(path: Path) -> list[dict[str, Any]]:
    try:
        from pyarrow import ArrowException, ArrowNotImplementedError, parquet, types
    except ImportError as error:
        raise UserError(f"dataset {path} is Parquet: pip install pyarrow, or save it as JSON lines") from error
    try:
        table = parquet.ParquetFile(path).read()
        _check_names(path, table.column_names)
        for place, field in enumerate(table.schema):
            if types.is_temporal(field.type):  # Python's dates have no nanoseconds, and end in the year 9999
                try:
                    column = table.column(place).cast("string")
                except ArrowNotImplementedError:
                    column = table.column(place).cast("int64")
                table = table.set_column(place, field.name, column)
        return [_as_json(row) for row in table.to_pylist()]
    except UserError:
        raise
    except (ArrowException, OSError, ValueError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"dataset {path} cannot be read as Parquet ({reason}); copy it again, or save it as JSON lines"
                        ) from error  # fmt: skip


def _as_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _as_json(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(item) for item in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else str(value)

"""Tables of records: CSV, TSV and Parquet, one record a row, as pandas, the datasets library and ms-swift write them.

A cell of CSV is text. Lists and objects in it are read as JSON, or as the Python that pandas writes for them. Values of
Parquet become what JSON has: bytes become base64, and dates text. An empty cell is a missing value in all of them.
"""

from __future__ import annotations

import ast
import base64
import csv
import io
import json
import math
import sys
from pathlib import Path
from typing import Any

from swift.utils.errors import UserError

SEPARATORS = {".csv": ",", ".tsv": "\t"}
TABLE_SUFFIXES = {*SEPARATORS, ".parquet"}


def read_table(path: Path) -> list[tuple[dict[str, Any], str]]:
    """The rows of the table, each with its name for messages. Raises UserError for a file that is not such a table."""
    rows = _read_parquet(path) if path.suffix.lower() == ".parquet" else _read_csv(path)
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
    text = io.StringIO(read_text(path, newline=""), newline="")
    reader = csv.DictReader(text, delimiter=SEPARATORS[path.suffix.lower()], strict=True)
    try:
        rows = [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise UserError(f"dataset {path} is malformed at line {reader.line_num} ({error}); save it again") from error
    for line, row in rows:
        if None in row:
            raise UserError(f"dataset {path} has more cells than columns at line {line}; quote cells with separators")
    return [{name: _cell(text) for name, text in row.items()} for _, row in rows]


def _cell(text: str | None) -> Any:
    """The value of a CSV cell: None if it is empty, a list or an object if it is one, else the text."""
    if not text:
        return None
    if (text[0], text[-1]) in (("[", "]"), ("{", "}")):
        for parse in (json.loads, ast.literal_eval):
            try:
                return parse(text)
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue
    return text


def _read_parquet(path: Path) -> list[dict[str, Any]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise UserError(f"dataset {path} is Parquet: pip install pyarrow, or save it as JSON lines") from error
    try:
        rows = parquet.ParquetFile(path).read().to_pylist()
    except (ArrowException, OSError) as error:
        raise UserError(f"dataset {path} cannot be read as Parquet ({error}); copy it again") from error
    return [_as_json(row) for row in rows]


def _as_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _as_json(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_as_json(item) for item in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else str(value)

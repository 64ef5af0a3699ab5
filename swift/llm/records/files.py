"""Files of records: JSON lists, JSON lines, an object that holds one list, or a table; whole, or a part of one.

``FILE#500`` names the first 500 records of a file, and ``FILE#500!7`` 500 random ones, drawn with seed 7, in the order
of the file. NaN and Infinity, which are not JSON but are written by some programs, are read as null.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from swift.llm.records.tables import TABLE_SUFFIXES, is_table, read_table, read_text
from swift.llm.records.turns import CONVERSATION_FIELDS, QUESTION_FIELDS
from swift.utils.digests import file_digest
from swift.utils.errors import UserError
from swift.utils.logger import get_logger

logger = get_logger()

RECORD_SUFFIXES = {".json", ".jsonl", *TABLE_SUFFIXES}
_PART = re.compile(r"(.+)#(\d+)(?:!(\d+))?")


class FilePart(NamedTuple):
    """A file of records, and the number of records to take from it: all, the first, or random ones."""

    file: Path
    count: int | None = None
    seed: int | None = None

    def take(self, items: list[Any]) -> list[Any]:
        """The part of ``items``, in their order. Warns if there are fewer than were asked for."""
        if self.count is None:
            return items
        if self.count > len(items):
            logger.warning("%s#%d: the file has %d records, all are taken", self.file, self.count, len(items))
            return items
        if self.seed is None:
            return items[: self.count]
        drawn = np.random.default_rng(self.seed).permutation(len(items))[: self.count]
        return [items[position] for position in sorted(drawn.tolist())]


def part_digest(path: str | Path) -> str:
    """Digest of a file of records, together with the part that is taken from it."""
    part = find_part(path)
    return file_digest(part.file) + "".join(f"#{number}" for number in part[1:] if number is not None)


def find_part(path: str | Path) -> FilePart:
    """The file that ``path`` names, and the part of it. Raises UserError if there is no such file.

    The published launcher has two names for one file, <size>.json and valid_sample_vqa_<size>.json: both are found.
    """
    match = None if Path(path).exists() else _PART.fullmatch(str(path))
    if match is None:
        return FilePart(_existing(Path(path)))
    if int(match[2]) < 1:
        raise UserError(f"dataset {path} takes 0 records; name 1 or more after #")
    return FilePart(_existing(Path(match[1])), int(match[2]), None if match[3] is None else int(match[3]))


def _existing(path: Path) -> Path:
    if path.is_dir():
        raise UserError(f"dataset {path} is a folder; name a file in it")
    size = path.name.removeprefix("valid_sample_vqa_") or path.name
    for candidate in (path, path.with_name(size), path.with_name(f"valid_sample_vqa_{size}")):
        if candidate.is_file():
            return candidate
    raise UserError(f"dataset {path} does not exist; correct the path")


def record_files(folder: Path) -> list[Path]:
    """The files in ``folder`` that may hold records, by their names, in alphabetical order."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in RECORD_SUFFIXES)


def read_items(path: str | Path) -> list[tuple[Any, str]]:
    """The objects of a file or of a part of one, as they are, each with its name for messages. Raises UserError for a
    file that is neither JSON nor a table."""
    part = find_part(path)
    return part.take(_read_file(part.file))


def _read_file(path: Path) -> list[tuple[Any, str]]:
    if is_table(path):
        return read_table(path)
    text = read_text(path)
    if text.lstrip().startswith("["):
        items = _parse_json(text, path, first_line=1)
        return [(item, f"{path} record {index}") for index, item in enumerate(items)]
    if (items := _wrapped_items(text, path)) is not None:
        return [(item, f"{path} record {index}") for index, item in enumerate(items)]
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    return [
        (_parse_json(line, path, number), f"{path} record {index} (line {number})")
        for index, (number, line) in enumerate(lines)
    ]


def _wrapped_items(text: str, path: Path) -> list[Any] | None:
    """The records of a file that is one object with one list of objects, as result files are; None for another."""
    first, _, following = text.lstrip().partition("\n")
    if not first.startswith("{") or (following.strip() and first.rstrip().endswith("}")):
        return None
    try:
        whole = _parse_json(text, path, first_line=1)
    except UserError:
        return None  # the lines are read one by one, and the message names the broken one
    if not isinstance(whole, dict):
        return None
    if any(name in whole for name in (*CONVERSATION_FIELDS, *QUESTION_FIELDS)):
        return [whole]
    lists = [value for value in whole.values() if isinstance(value, list) and value and isinstance(value[0], dict)]
    return lists[0] if len(lists) == 1 else [whole]


def _parse_json(text: str, path: Path, first_line: int) -> Any:
    try:
        return json.loads(text, parse_constant=lambda _: None)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        raise UserError(
            f"dataset {path} is malformed JSON at line {line}, column {error.colno} ({error.msg}); "
            "it must be a JSON list, or one JSON object per line, or a table whose name ends in .csv, .tsv or .parquet"
        ) from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"dataset {path} from line {first_line} cannot be read ({error}); fix the file") from error

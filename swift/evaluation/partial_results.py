"""Answers on disk while an evaluation runs: JSON lines that a killed run goes on from, and that shards meet in.

``<result>.partial.jsonl``, or ``<result>_shard-2-of-4.partial.jsonl`` for each shard, holds a header, a line for each
process that wrote to it, and the answers batch by batch:

    {"header": {"settings": {...}, "facts": {...}, "batching": {...}}}
    {"run": {...}}
    {"index": 3, "question": "digest of question and images", "answers": [...]}
    {"batch": {"questions": 16, "seconds": 1.9}}

A batch is one write. A line that a kill cut off is dropped; the files of other shards are read, never written. A file
that is being written is locked, so that the same part is not answered twice at once.
"""

from __future__ import annotations

import fcntl
import glob
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from swift.utils.errors import UserError

SUFFIX = ".partial.jsonl"


@dataclass
class Partial:
    """What one partial file holds."""

    path: Path
    header: dict[str, Any]
    runs: list[dict[str, Any]] = field(default_factory=list)  # each with what it answered, and in how many seconds
    rows: dict[int, dict[str, Any]] = field(default_factory=dict)  # by index; of two, the first


def partial_answers_path(result: Path, shard: tuple[int, int] = (1, 1)) -> Path:
    """Where shard ``(number from 1, count)`` of a result file keeps its answers."""
    number, count = shard
    part = "" if count == 1 else f"_shard-{number}-of-{count}"
    return result.with_name(f"{result.stem}{part}{SUFFIX}")


def partial_answers_paths(result: Path) -> list[Path]:
    """The partial files of a result file that are there, whatever the shard, in one order."""
    named = re.compile(re.escape(result.stem) + r"(_shard-\d+-of-\d+)?" + re.escape(SUFFIX))
    found = result.parent.glob(f"{glob.escape(result.stem)}*{SUFFIX}")
    return sorted(path for path in found if named.fullmatch(path.name))


def read_partial(path: Path) -> Partial | None:
    """A partial file; None where there is none, or nothing but a header that was cut off. Raises UserError for one that
    is damaged elsewhere than at its end."""
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    lines = text[: text.rfind(b"\n") + 1].splitlines()
    if not lines:
        return None
    partial = None
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
            if partial is None:
                partial = Partial(path, entry["header"])
            else:
                _take(partial, entry)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise UserError(
                f"partial results {path} are damaged at line {number}; remove the file, or pass --resume false to "
                "start over"
            ) from error
    return partial


def _take(partial: Partial, entry: dict[str, Any]) -> None:
    if "run" in entry:
        partial.runs.append({**entry["run"], "questions": 0, "seconds": 0.0})
    elif "batch" in entry:
        partial.runs[-1]["questions"] += entry["batch"]["questions"]
        partial.runs[-1]["seconds"] += entry["batch"]["seconds"]
    else:
        partial.rows.setdefault(int(entry["index"]), entry)


def remove_partial(path: Path) -> None:
    """Remove a partial file, if there is one. Raises UserError while a process writes to it."""
    if path.exists():
        with path.open("rb") as file:
            _lock(file, path)
            path.unlink(missing_ok=True)


def _lock(file: BinaryIO, path: Path) -> None:
    """Hold ``file``, open at ``path``, until it is closed. Raises UserError where another process does."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UserError(
            f"another process answers this part, into {path}; wait for it, or give each its --shard"
        ) from error


class PartialWriter:
    """Appends to a partial file, after dropping a line that a kill cut off; a new file begins with ``header``. To be
    closed. Raises UserError where another process writes to the file."""

    def __init__(self, path: Path, header: dict[str, Any], run: dict[str, Any]):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab", buffering=0)
        try:
            _lock(self._file, path)
            new = read_partial(path) is None
            self._file.truncate(0 if new else path.read_bytes().rfind(b"\n") + 1)
            self._append([{"header": header}, {"run": run}] if new else [{"run": run}])
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let others write to the file."""
        self._file.close()

    def append(self, rows: Sequence[dict[str, Any]], seconds: float) -> None:
        """Add the answers of one batch."""
        self._append([*rows, {"batch": {"questions": len(rows), "seconds": round(seconds, 3)}}])

    def _append(self, entries: Sequence[dict[str, Any]]) -> None:
        lines = "".join(json.dumps(entry, ensure_ascii=False, allow_nan=False) + "\n" for entry in entries)
        self._file.write(lines.encode("utf-8"))

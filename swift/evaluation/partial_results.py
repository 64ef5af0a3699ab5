"""Answers on disk while an evaluation runs, from which a killed run resumes and in which shards meet.

``<result>.partial.jsonl``, or ``<result>_shard-2-of-4.partial.jsonl`` per shard, is a resumable file
(:mod:`swift.utils.json_lines`). It holds a header, a line per process that wrote to it, and the answers batch by batch:

    {"header": {"settings": {...}, "facts": {...}, "batching": {...}}}
    {"run": {...}}
    {"index": 3, "question": "digest of question and images", "answers": [...]}
    {"batch": {"questions": 16, "seconds": 1.9}}

The files of other shards are read, never written. The lock keeps two processes from answering the same part at once.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swift.utils.json_lines import JsonLinesFile

SUFFIX = ".partial.jsonl"
_BATCH = {"questions": int, "seconds": int | float}
_ANSWER = {"text": str, "num_tokens": int, "finished": bool}
_TOKEN_LISTS = ("tokens", "logprobs", "entropies", "ranks", "alternatives")


@dataclass
class Partial:
    """Contents of one partial file."""

    path: Path
    header: dict[str, Any]
    runs: list[dict[str, Any]] = field(default_factory=list)  # each with what it answered, and in how many seconds
    rows: dict[int, dict[str, Any]] = field(default_factory=dict)  # by index; the first, if an index comes twice


def partial_answers_path(result: Path, shard: tuple[int, int] = (1, 1)) -> Path:
    """The partial file of shard ``(number from 1, count)`` of a result file."""
    number, count = shard
    part = "" if count == 1 else f"_shard-{number}-of-{count}"
    return result.with_name(f"{result.stem}{part}{SUFFIX}")


def partial_answers_paths(result: Path) -> list[Path]:
    """The partial files that exist for a result file, of all shards, sorted."""
    named = re.compile(re.escape(result.stem) + r"(_shard-\d+-of-\d+)?" + re.escape(SUFFIX))
    candidates = result.parent.glob(f"{glob.escape(result.stem)}*{SUFFIX}")
    return sorted(path for path in candidates if named.fullmatch(path.name))


def read_partial(path: Path) -> Partial | None:
    """A partial file; None if there is none, or nothing but a header that was cut off. Raises UserError for a line that
    is not one of those above."""
    file, partial = _file(path), None
    for line in file.lines():
        if partial is None:
            if problem := _header_problem(line.value.get("header")):
                raise file.damage(line.number, f"header: {problem}")
            partial = Partial(path, line.value["header"])
        elif problem := _take(partial, line.value):
            raise file.damage(line.number, problem)
    return partial


def _file(path: Path) -> JsonLinesFile:
    return JsonLinesFile(
        path,
        remedy="remove the file, or pass --resume false to start over",
        busy="wait for it, or give each process its own --shard",
    )


def _header_problem(header: Any) -> str | None:
    problem = _problem(header, {"settings": dict, "facts": dict, "batching": dict})
    return problem or _problem(header["batching"], {"questions": int})


def _take(partial: Partial, entry: dict[str, Any]) -> str | None:
    """Add a line to ``partial``, or say what is wrong with it."""
    if "run" in entry:
        if problem := _problem(entry["run"], {}):
            return f"run: {problem}"
        partial.runs.append({**entry["run"], "questions": 0, "seconds": 0.0})
        return None
    if "batch" in entry:
        if problem := _problem(entry["batch"], _BATCH):
            return f"batch: {problem}"
        if not partial.runs:
            return "a batch before any run"
        for name in _BATCH:
            partial.runs[-1][name] += entry["batch"][name]
        return None
    problem = _row_problem(entry)
    if problem is None:
        partial.rows.setdefault(entry["index"], entry)
    return problem


def _row_problem(row: dict[str, Any]) -> str | None:
    """Problem of the line of a question. None if it is complete."""
    if problem := _problem(row, {"index": int, "question": str}):
        return problem
    if "problem" in row:
        return _problem(row, {"problem": str})
    answers = row.get("answers")
    if not isinstance(answers, list) or not answers:
        return "field 'answers' is missing, empty or of another type"
    return next(filter(None, map(_answer_problem, answers)), None)


def _answer_problem(answer: Any) -> str | None:
    if problem := _problem(answer, _ANSWER):
        return f"answer: {problem}"
    lists = [answer[name] for name in _TOKEN_LISTS if name in answer]
    if any(not isinstance(values, list) for values in lists) or len({len(values) for values in lists}) > 1:
        return f"answer: {', '.join(_TOKEN_LISTS)} must be lists of one length"
    return None


def _problem(value: Any, fields: dict[str, Any]) -> str | None:
    """Problem of ``value``, which must be an object with these fields of these types. None if it is one."""
    if not isinstance(value, dict):
        return "not an object"
    wrong = [name for name, kind in fields.items() if not isinstance(value.get(name), kind)]
    return f"field {wrong[0]!r} is missing or of another type" if wrong else None


def remove_partial(path: Path) -> None:
    """Remove a partial file, if there is one. Raises UserError while a process writes to it."""
    _file(path).remove()


class PartialWriter:
    """Appends answers to a partial file; a new file begins with ``header``. Holds the file until :meth:`close`. Raises
    UserError if another process writes to it."""

    def __init__(self, path: Path, header: dict[str, Any], run: dict[str, Any]) -> None:
        self._lines = _file(path).writer({"header": header})
        self._lines.append([{"run": run}])

    def close(self) -> None:
        """Let others write to the file."""
        self._lines.close()

    def append(self, rows: Sequence[dict[str, Any]], seconds: float) -> None:
        """Add the answers of one batch."""
        self._lines.append([*rows, {"batch": {"questions": len(rows), "seconds": round(seconds, 3)}}])

"""Answers on disk while an evaluation runs, from which a killed run resumes and in which shards meet.

``<result>.partial.jsonl``, or ``<result>_shard-2-of-4.partial.jsonl`` per shard, is a resumable file
(:mod:`swift.utils.json_lines`). It holds a header, a line per process that wrote to it, and the answers batch by batch:

    {"header": {"settings": {...}, "facts": {...}, "batching": {...}}}
    {"run": {...}}
    {"index": 3, "question": "digest of question and images", "answers": [...]}
    {"batch": {"questions": 16, "seconds": 1.9}}

The files of other shards are read, never written. The lock keeps two processes from answering the same part at once.

A line that is none of these is passed over with a warning: its question is answered again, and the other answers count.
Without a sound header nobody knows what the answers are to, and the file is refused.
"""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swift.utils.json_lines import JsonLinesFile
from swift.utils.logger import get_logger

SUFFIX = ".partial.jsonl"

logger = get_logger()


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 53


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and -1e15 < value < 1e15  # false for NaN


def _is_logprob(value: Any) -> bool:
    return _is_number(value) and value < 1  # rounding may lift it above 0


def _is_alternatives(value: Any) -> bool:
    pairs = value if isinstance(value, list) else [None]
    return all(isinstance(p, list) and len(p) == 2 and _is_text(p[0]) and _is_logprob(p[1]) for p in pairs)


def _is_object(value: Any) -> bool:
    """True for an object that a JSON file can hold: its numbers are finite."""
    try:
        return isinstance(value, dict) and bool(json.dumps(value, allow_nan=False))
    except (ValueError, RecursionError):
        return False


_HEADER = {"settings": _is_object, "facts": _is_object, "batching": _is_object}
_BATCHING = {
    "questions": lambda value: _is_count(value) and value > 0,
    "tokens": lambda value: value is None or (_is_count(value) and value > 0),
}
_BATCH = {"questions": _is_count, "seconds": _is_number}
_ANSWER = {"text": _is_text, "num_tokens": _is_count, "finished": lambda value: isinstance(value, bool)}
_TOKEN_LISTS = {
    "tokens": _is_text,
    "logprobs": _is_logprob,
    "entropies": _is_number,
    "ranks": _is_count,
    "alternatives": _is_alternatives,
}


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
    """A partial file; None if there is none, or nothing but a header that was cut off. A warning names the first line
    that is not one of those above. Raises UserError for a header that is not."""
    file, partial = _file(path), None
    damaged: dict[int, str] = {}
    for line in file.lines(damaged):
        if partial is not None:
            if problem := _take(partial, line.value):
                damaged[line.number] = problem
        elif line.number == 1 and not (problem := _header_problem(line.value.get("header"))):
            partial = Partial(path, line.value["header"])
        else:
            raise file.damage(1, damaged.get(1) or f"header: {problem}")
    if damaged:
        number, problem = min(damaged.items())
        if partial is None:
            raise file.damage(number, problem)
        more = f", and {len(damaged) - 1} more" if len(damaged) > 1 else ""
        logger.warning("%s: line %d is damaged (%s)%s; what is missing is answered again", path, number, problem, more)
    return partial


def _file(path: Path) -> JsonLinesFile:
    return JsonLinesFile(
        path,
        remedy="remove the file, or pass --resume false to start over",
        busy="wait for it, or give each process its own --shard",
    )


def _header_problem(header: Any) -> str | None:
    if problem := _problem(header, _HEADER):
        return problem
    batching = {"tokens": None} | header["batching"]
    unknown = batching.keys() - _BATCHING.keys()
    return f"batching: unknown field {min(unknown)!r}" if unknown else _problem(batching, _BATCHING)


def _take(partial: Partial, entry: dict[str, Any]) -> str | None:
    """Add a line to ``partial``, or say what is wrong with it."""
    if "run" in entry:
        if not _is_object(entry["run"]):
            return "run: not an object"
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
    problem = _row_problem(entry, partial.header["settings"])
    if problem is None:
        partial.rows.setdefault(entry["index"], entry)
    return problem


def _row_problem(row: dict[str, Any], settings: Mapping[str, Any]) -> str | None:
    """Problem of the line of a question. None if it is complete."""
    if problem := _problem(row, {"index": _is_count, "question": _is_text}):
        return problem
    if "problem" in row:
        return _problem(row, {"problem": _is_text})
    answers = row.get("answers")
    if not isinstance(answers, list) or not answers:
        return "field 'answers' is missing, empty or of another type"
    if len(answers) != settings.get("num_samples", len(answers)):
        return f"{len(answers)} answers for {settings['num_samples']} samples"
    return next(filter(None, (_answer_problem(answer, settings.get("tokens")) for answer in answers)), None)


def _answer_problem(answer: Any, scored: Any) -> str | None:
    if problem := _problem(answer, _ANSWER):
        return f"answer: {problem}"
    lists = {name: answer[name] for name in _TOKEN_LISTS if name in answer}
    if (scored or lists) and (missing := _TOKEN_LISTS.keys() - lists.keys() - {"alternatives"}):
        return f"answer: field {min(missing)!r} is missing"
    if any(not isinstance(values, list) for values in lists.values()) or len(set(map(len, lists.values()))) > 1:
        return f"answer: {', '.join(_TOKEN_LISTS)} must be lists of one length"
    wrong = [name for name, values in lists.items() if not all(map(_TOKEN_LISTS[name], values))]
    return f"answer: field {wrong[0]!r} holds a value of another type" if wrong else None


def _problem(value: Any, fields: Mapping[str, Callable[[Any], bool]]) -> str | None:
    """Problem of ``value``, which must be an object whose fields pass these tests. None if it is one."""
    if not isinstance(value, dict):
        return "not an object"
    wrong = [name for name, test in fields.items() if not test(value.get(name))]
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

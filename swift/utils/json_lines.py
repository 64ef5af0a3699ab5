"""JSON-lines files that survive a kill: one object per line, and a last line that may be cut off.

A resumable file begins with a header object that describes the inputs of all other lines. From it, the file's owner
decides if the file may be resumed. Lines are only ever appended, one batch per write. One process at a time writes, and
it holds a lock. A kill leaves at most one line without its newline, the *torn* line, which may end inside a UTF-8
character. Readers ignore the torn line and the next writer removes it. A writer whose disk is full removes it itself,
so that others may be appended when there is room again. Any other line that is not an object is damage. It raises a
UserError that names the file, the line and the remedy, unless the reader passes such lines over.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Self

from swift.utils.errors import UserError
from swift.utils.locks import hold

_NO_OBJECT = "not a JSON object"
LONGEST_LINE = 1 << 27  # bytes of a line that is read; objects take up to 30 times the memory of their text
TAIL = 1 << 20  # bytes at the end of a file that are searched for its newest entries


class JsonLine(NamedTuple):
    """One whole line of a file."""

    number: int  # from 1
    value: dict[str, Any]
    content: bytes  # with its newline


def json_line(value: Any) -> bytes:
    """One line of UTF-8 JSON with its newline. Half of a surrogate pair, which UTF-8 cannot hold, is written as a JSON
    escape."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8", "backslashreplace") + b"\n"


@dataclass(frozen=True)
class JsonLinesFile:
    """A file of JSON lines at ``path``."""

    path: Path
    remedy: str  # the remedy in the message about a damaged line
    busy: str = "wait for it, or write somewhere else"  # the remedy if another process writes to the file

    def lines(self, damaged: dict[int, str] | None = None) -> Iterator[JsonLine]:
        """The whole lines, in order; none if there is no file. Raises UserError if a line is not an object, or passes
        it over and adds its number and problem to ``damaged``. A line of over 128 MB is always an error."""
        if not self.path.exists():
            return
        if not self.path.is_file():
            raise UserError(f"{self.path} is not a regular file; {self.remedy}")
        with self.path.open("rb") as file:
            for number, content in enumerate(iter(lambda: file.readline(LONGEST_LINE + 1), b""), start=1):
                if len(content) > LONGEST_LINE:
                    raise self.damage(number, f"over {LONGEST_LINE >> 20} MB long")
                if not content.endswith(b"\n"):
                    return
                if (value := _object(content)) is not None:
                    yield JsonLine(number, value, content)
                elif damaged is None:
                    raise self.damage(number, _NO_OBJECT)
                else:
                    damaged[number] = _NO_OBJECT

    def header(self) -> dict[str, Any] | None:
        """The first line's object; None if there is no file or it holds no whole line. Raises UserError."""
        return next((line.value for line in self.lines()), None)

    def writer(self, header: dict[str, Any], *, keep: int | None = None) -> JsonLinesWriter:
        """Open the file for appending. A new file begins with ``header``, and a file that has a header is resumed. Of
        its lines the first ``keep`` stay, or all. Raises UserError if another process writes to it."""
        return JsonLinesWriter(self, header, keep)

    def remove(self) -> None:
        """Remove the file, if there is one. Raises UserError while a process writes to it."""
        if self.path.exists():
            with self.path.open("rb") as file:
                self._lock(file)
                self.path.unlink(missing_ok=True)

    def open_locked(self) -> BinaryIO:
        """The file, open for appending and locked until it is closed. Raises UserError if another process has it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            file = self.path.open("ab", buffering=0)
            try:
                self._lock(file)
                if os.fstat(file.fileno()).st_nlink:
                    return file
            except BaseException:
                file.close()
                raise
            file.close()  # another process removed it before the lock was taken

    def damage(self, number: int, problem: str) -> UserError:
        """The error for a damaged line."""
        return UserError(f"{self.path} is damaged at line {number} ({problem}); {self.remedy}")

    def _lock(self, file: BinaryIO) -> None:
        hold(file, f"another process writes to {self.path}; {self.busy}")


class JsonLinesWriter:
    """Appends to a resumable file. Holds its lock until :meth:`close`, or the end of a ``with`` block.

    Attributes:
        resumed: whole lines after the header that the file held when it was opened; 0 for a new file.
    """

    def __init__(self, lines: JsonLinesFile, header: dict[str, Any], keep: int | None) -> None:
        self._file, self._path = lines.open_locked(), lines.path
        try:
            whole = lines.path.read_bytes().split(b"\n")[:-1][:keep]
            self._file.truncate(sum(len(line) + 1 for line in whole))
            count = len(whole)
            self.resumed = max(0, count - 1)
            if not count:
                self.append([header])
        except BaseException:
            self.close()
            raise

    def append(self, values: Iterable[Any]) -> None:
        """Add objects, one line each, in a single write unless the disk takes only part of it at once.

        All of them are added, or none: if the disk takes no more, what it took of them is cut off again. Raises OSError
        for a fault of the disk, and if the file was removed meanwhile.
        """
        unwritten = memoryview(b"".join(map(json_line, values)))
        state = os.fstat(self._file.fileno())
        try:
            if not state.st_nlink:
                raise FileNotFoundError(errno.ENOENT, "removed while it was written to", str(self._path))
            while unwritten:
                unwritten = unwritten[self._file.write(unwritten) :]
        except OSError as error:
            error.filename = str(self._path)
            with suppress(OSError):
                self._file.truncate(state.st_size)
            raise

    def close(self) -> None:
        """Close the file and release its lock."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def newest_objects(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of the last lines of a file, the newest first. Progress displays use it, so it never fails: other
    lines are ignored, and a missing file gives no objects."""
    if not path.is_file():
        return  # a pipe would be waited for
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL))
            lines: Sequence[bytes] = file.read().split(b"\n")
    except OSError:
        return
    yield from (value for value in map(_object, reversed(lines)) if value is not None)


def _object(content: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None

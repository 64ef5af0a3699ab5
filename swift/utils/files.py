"""JSON files: atomic writing, so that a reader never sees half a file, and strict or lenient reading."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from swift.utils.errors import UserError

MEMORY_PER_BYTE = 30  # of JSON, at most: "{}," is an object of 64 bytes, and the text is there too
LEAST_MEMORY = 1 << 30  # bytes that are not counted

_UMASK = os.umask(0o022)
os.umask(_UMASK)  # it can only be read by setting it
_LONG_NAME = 200  # bytes


def open_to_all(path: Path) -> None:
    """Give a new file the rights that the process gives by default. Some writers leave it to its owner alone."""
    if path.is_file():
        path.chmod(0o666 & ~_UMASK)


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of ``path`` to write to. Missing parent folders are made.

    The temporary file is renamed to ``path`` if the block succeeds, and removed if it fails. An OSError that names no
    file, such as that of a full disk, then names ``path``.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{_short(path.name)}")
    try:
        yield temporary
        open_to_all(temporary)
        os.replace(temporary, path)
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise
    finally:
        with suppress(OSError):  # on a disk that has failed, this fails too and would hide why
            temporary.unlink(missing_ok=True)


def _short(name: str) -> str:
    """``name``, or a short stand-in with its suffix if it would leave no room for a prefix."""
    encoded = os.fsencode(name)
    return name if len(encoded) < _LONG_NAME else hashlib.sha256(encoded).hexdigest()[:16] + Path(name).suffix[:16]


def write_text(path: str | Path, text: str) -> Path:
    """Write UTF-8 text atomically. Half of a surrogate pair, as in a path that is not UTF-8, is escaped."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    return Path(path)


def write_json(path: str | Path, value: Any, indent: int | None = 2) -> Path:
    """Write one JSON document, UTF-8, atomically."""
    return write_text(path, json.dumps(value, ensure_ascii=False, indent=indent, allow_nan=False) + "\n")


def write_json_lines(path: str | Path, rows: list[Any]) -> Path:
    """Write one JSON object per line, UTF-8, atomically."""
    return write_text(path, "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows))


def check_readable(path: Path) -> None:
    """Raise ValueError for what is not a file, such as a pipe, which would be waited for, and for a file that this
    machine's memory does not hold once it is parsed. A missing file passes."""
    if not path.exists():
        return
    if not path.is_file():
        raise ValueError("not a regular file")
    needed = MEMORY_PER_BYTE * path.stat().st_size
    if needed > LEAST_MEMORY and needed > (free := psutil.virtual_memory().available):
        raise ValueError(f"it may take {needed / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free")


def read_json(path: str | Path, remedy: str, kind: type = dict, *, what: str = "") -> Any:
    """The JSON object in a file, or a value of another ``kind``.

    Raises UserError if the file is missing, cannot be read, or holds a value of another type. The message begins with
    ``what``, a name for the file, and ends with ``remedy``.
    """
    named = f"{what} {path}".lstrip()
    try:
        check_readable(Path(path))
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{named} cannot be read ({error}); {remedy}") from error
    if not isinstance(value, kind):
        raise UserError(f"{named} is not a JSON {'object' if kind is dict else kind.__name__}; {remedy}")
    return value


def try_read_json(path: str | Path) -> dict[str, Any] | None:
    """The JSON object in a file; None if the file is missing, cannot be read, or holds another value."""
    try:
        return read_json(path, remedy="")
    except UserError:
        return None

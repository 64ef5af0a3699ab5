"""Faults of disks, files, folders and memory, in one line with the remedy."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from swift.utils.lines import one_line

_ALMOST_FULL = 1 << 20  # bytes that are left
_KEPT = "what was complete before is kept"
_NO_ROOM = f"free some space, or write to another disk; {_KEPT}"
# Remedies for faults of a disk. These are reported even if the error does not say in which file.
_DISK = {
    errno.ENOSPC: _NO_ROOM,
    errno.EDQUOT: _NO_ROOM,
    errno.EFBIG: f"raise the limit of this shell (ulimit -f), or write to another disk; {_KEPT}",
    errno.EROFS: f"write to another folder, or have the file system mounted for writing; {_KEPT}",
    errno.EIO: f"check that the disk has room and is sound, or write to another one; {_KEPT}",
    errno.ESTALE: f"the server has dropped the file; start the command again; {_KEPT}",
    errno.EMFILE: "raise the limit of this shell (ulimit -n)",
    errno.ENFILE: "end other programs, or raise the limit of the machine",
}
_PATH = {
    errno.EACCES: "fix its permissions, or name another",
    errno.EPERM: "fix its permissions, or name another",
    errno.ENOENT: "it, or a folder above it, is not there or was removed; put it back, or name another",
    errno.ENOTDIR: "a part of the path is a file and not a folder; name another",
    errno.EISDIR: "it is a folder and not a file; name another",
    errno.EEXIST: "something else is there; move it away, or name another",
    errno.ENAMETOOLONG: "name a shorter one",
    errno.ELOOP: "links in the path lead in a circle; name another",
}
# Libraries report a failed write by errors of their own.
_WORDS = {os.strerror(number): number for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO)}
_TORCH = re.compile(r"PytorchStreamWriter failed writing|\bunexpected pos \d+ vs \d+|iostream error")

_NO_MEMORY = re.compile("out of memory|can't allocate memory|not enough memory|std::bad_alloc|Storage size calculation")


def describe_fault(error: BaseException) -> str | None:
    """One line about a fault of a disk, file, folder or memory, with the remedy. None for an error of another kind.

    A full or failing disk is also found behind another error, and in the words that libraries have for it.
    """
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _NO_MEMORY.search(str(error))):
        return f"memory is used up ({one_line(error)}); lower the batch, the lengths or the sizes that were asked for"
    named = isinstance(error, OSError) and isinstance(error.filename, str | bytes)
    place = os.fsdecode(error.filename) if named else "a file could not be written"
    if (number := _disk_fault(error)) is not None:
        return f"{place}: {os.strerror(number)}; {_DISK[number]}"
    if named:
        return f"{place}: {error.strerror or error.errno}; {_PATH.get(error.errno, 'check the path and its disk')}"
    return None


@contextmanager
def naming_disk(folder: str | Path) -> Iterator[None]:
    """Let faults of a disk within the block that name no file name ``folder``."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        number = _disk_fault(error)
        if number is None or getattr(error, "filename", None) is not None:
            raise
        if number == errno.EIO and os.path.isdir(folder) and shutil.disk_usage(folder).free < _ALMOST_FULL:
            number = errno.ENOSPC  # torch does not say
        raise OSError(number, os.strerror(number), str(folder)) from error


def _disk_fault(error: BaseException | None) -> int | None:
    """The number of the first fault of a disk among ``error`` and the errors behind it. None without one."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _DISK:
            return error.errno
        if isinstance(error, OSError | RuntimeError | SafetensorError):
            if number := next((number for words, number in _WORDS.items() if words in str(error)), None):
                return number
            if _TORCH.search(str(error)):
                return errno.EIO
        error = error.__cause__ or error.__context__
    return None

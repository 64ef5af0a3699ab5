"""Errors that a command reports in one line: mistakes that a user can fix, and faults of disks and folders."""

from __future__ import annotations

import errno
import functools
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

INTERRUPTED = 130  # 128 + SIGINT, what a shell reports
FAULT = 1
ERROR_FILE = "TORCHELASTIC_ERROR_FILE"  # variable in which torchrun says where it looks for the error of a process
_LOST = re.compile("closed by peer|connection reset|broken pipe|timed out|timeout|remote process exited", re.IGNORECASE)
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
LONGEST_MESSAGE = 600  # characters of an error that is printed; its beginning and its end are kept
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class UserError(ValueError):
    """A mistake in a file, flag or setting. The message is one line: what, where, and the remedy."""


class LostProcess(UserError):
    """The end of a process because another process of its run has ended, which knows why."""


def one_line(error: Exception) -> str:
    """The message of another library's error as one line of at most 300 characters, or its repr if it has none."""
    text = "" if isinstance(error, KeyError) else " ".join(str(error).split())
    return (text or repr(error))[:300]


def without_controls(text: str) -> str:
    r"""``text`` on one line, with escapes such as ``\x1b`` for control characters. So a name or a text of the data
    cannot forge lines of a log, command a terminal or turn the direction of writing."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)


def lines_without_controls(text: str) -> str:
    """``text`` with escapes for control characters, except for its line ends."""
    return "\n".join(map(without_controls, text.split("\n")))


def shortened(text: str, limit: int = LONGEST_MESSAGE) -> str:
    """``text``, or its beginning and its end if it is longer than ``limit``."""
    tail = limit // 3
    return text if len(text) <= limit else f"{text[: limit - tail - 5]} ... {text[-tail:]}"


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


def reports_user_errors(main: Callable[..., int | None]) -> Callable[..., int]:
    """Wrap a command's ``main(argv=None)``, so that it ends with one line on stderr and a status, not a traceback.

    A UserError gives status 2, a fault of a disk, folder or memory 1, and Ctrl-C 130. If the reader of standard output
    has gone, the status is 141 without a line.
    """

    @functools.wraps(main)
    def wrapper(*args, **kwargs) -> int:
        with suppress(AttributeError):  # a stream that a test or a notebook has put there
            sys.stdout.reconfigure(errors="backslashreplace")  # for paths that are not UTF-8
        try:
            status = main(*args, **kwargs) or 0
            sys.stdout.flush()
            return status
        except UserError as error:
            return _end(str(error), 2, follows=isinstance(error, LostProcess))
        except KeyboardInterrupt:
            return _end("interrupted", INTERRUPTED)
        except BrokenPipeError as error:
            if error.filename is not None or error.filename2 is not None:
                raise
            _drop_output()
            return 141  # 128 + SIGPIPE, what a shell reports
        except (OSError, RuntimeError, MemoryError, SafetensorError) as error:
            if (line := describe_fault(error)) is not None:
                _drop_output()
                return _end(line, FAULT)
            if (line := describe_loss(error)) is not None:
                return _end(line, FAULT, follows=True)
            raise

    return wrapper


def describe_loss(error: BaseException) -> str | None:
    """One line about a collective that another process did not answer: it died, hangs or cannot be reached. None for an
    error of another kind."""
    text = str(error)
    gloo = isinstance(error, RuntimeError) and re.search("gloo|nccl", text, re.IGNORECASE) and _LOST.search(text)
    if gloo or any(kind.__name__ == "DistError" for kind in type(error).__mro__):  # torch need not be loaded here
        said = one_line(error).partition(". ")[0]
        return f"another process of the run died, hangs or cannot be reached ({said}); see its messages"
    return None


def _end(line: str, status: int, follows: bool = False) -> int:
    """Print the line of a command that fails. Of the processes that a launcher started, only the first prints a line
    that several have, and those whose failure ``follows`` from another's are silent."""
    line = f"error: {shortened(without_controls(line))}"
    first = _first_of_launch(line)
    if first is None or not (follows or first == line):
        with suppress(OSError):  # standard error may be on the full disk too
            print(line, file=sys.stderr, flush=True)
    return status


def _first_of_launch(line: str) -> str | None:
    """The line with which another process of torchrun's failed first; None if this one is the first, or alone.

    The first line is also left where torchrun looks for it, so that it shows it at the end, as the root cause.
    """
    place = os.environ.get(ERROR_FILE)
    if not place or "LOCAL_RANK" not in os.environ:
        return None
    folder, first = Path(place).parent.parent, None  # of all processes on this machine
    try:
        folder.joinpath(f"line-{os.getpid()}").write_text(line)
        try:
            os.link(folder / f"line-{os.getpid()}", folder / "first-line")
        except FileExistsError:
            first = (folder / "first-line").read_text()
        extra = {"py_callstack": first or line, "timestamp": str(int(time.time()))}
        content = {"message": {"message": first or line, "extraInfo": extra}}
        Path(place).write_text(json.dumps(content))
    except OSError:  # the folder of temporary files is full
        pass
    return first


def _drop_output() -> None:
    """Let what waits to be printed go nowhere if it cannot be printed, since Python would fail over it at the end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

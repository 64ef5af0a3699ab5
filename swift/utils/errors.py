"""Errors that a command reports in one line, and the wrapper of commands that does so."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from contextlib import suppress

from safetensors import SafetensorError

from swift.utils.endings.faults import describe_fault
from swift.utils.endings.launched import describe_loss, first_of_launch
from swift.utils.lines import shortened, without_controls

INTERRUPTED = 130  # 128 + SIGINT, what a shell reports
FAULT = 1


class UserError(ValueError):
    """A mistake in a file, flag or setting. The message is one line: what, where, and the remedy."""


class LostProcess(UserError):
    """The end of a process because another process of its run has ended, which knows why."""


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


def _end(line: str, status: int, follows: bool = False) -> int:
    """Print the line of a command that fails. Of the processes that a launcher started, only the first prints a line
    that several have, and those whose failure ``follows`` from another's are silent."""
    line = f"error: {shortened(without_controls(line))}"
    first = first_of_launch(line)
    if first is None or not (follows or first == line):
        with suppress(OSError):  # standard error may be on the full disk too
            print(line, file=sys.stderr, flush=True)
    return status


def _drop_output() -> None:
    """Let what waits to be printed go nowhere if it cannot be printed, since Python would fail over it at the end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

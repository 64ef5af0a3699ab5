"""Guards between a plugin's code and the run.

Whatever a plugin raises becomes a message of one line. It gets copies of what it may change, random numbers of its own,
and a process whose settings are as before once it is done.
"""

from __future__ import annotations

import copy
import functools
import os
import random
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from swift.utils.errors import UserError
from swift.utils.lines import one_line
from swift.utils.logger import get_logger

logger = get_logger()

GuardedSetting = tuple[str, Callable[[], Any], Callable[[Any], Any]]  # words for it, how it is read, and how it is set


@contextmanager
def named_errors(beginning: str, clear: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Raise UserError for anything that a plugin raises within the block, also for ``sys.exit``. The message is
    ``beginning`` and the error, without its place for types that are ``clear``. Ctrl-C is let through."""
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        words = one_line(error) if isinstance(error, clear) else describe_error(error)
        raise UserError(f"{beginning}: {words}") from error


def describe_error(error: BaseException, path: Path | None = None) -> str:
    """Describe ``error`` on one line, as ``line N: ErrorType: message``.

    With ``path``, N is the innermost line within that file. Otherwise the file of the innermost line precedes it.
    """
    message = " ".join(str(error).split())
    if isinstance(error, SyntaxError):
        return f"line {error.lineno}: {type(error).__name__}: {error.msg}"
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if path is None or frame.filename == str(path)
    ]
    if not frames:
        return f"{type(error).__name__}: {message}"
    place = f"line {frames[-1].lineno}" if path else f"{frames[-1].filename} line {frames[-1].lineno}"
    return f"{place}: {type(error).__name__}: {message}"


def copied(value: Any) -> Any:
    """A copy of a value that JSON or a table can hold. Changes to it, however deep, do not reach the original."""
    if isinstance(value, list):
        return [copied(item) for item in value]
    if isinstance(value, dict):
        return {name: copied(item) for name, item in value.items()}
    return value if isinstance(value, (str, int, float, bytes, type(None))) else copy.deepcopy(value)


@contextmanager
def settings_kept(who: str, *, folder_only: bool = False) -> Iterator[None]:
    """Change back what is changed within the block: the working directory and, unless ``folder_only`` is true, signal
    handlers, settings of torch that decide how training computes, and random numbers. A warning names ``who``."""
    before = [(setting, setting[1]()) for setting in _settings(folder_only)]
    with ExitStack() as stack:
        if not folder_only:
            stack.enter_context(_random_numbers_apart())
        try:
            yield
        finally:
            for (words, read, write), value in before:
                if value is not None and (now := read()) != value:
                    with named_errors(f"{who} changed {words}, which cannot be changed back"):
                        write(value)
                    _warn_of_change(who, words, str(now))


@functools.cache  # once for each change
def _warn_of_change(who: str, words: str, now: str) -> None:
    logger.warning("%s changed %s to %s; it is changed back", who, words, now)


def _settings(folder_only: bool) -> Iterator[GuardedSetting]:
    yield "the working directory", _working_directory, os.chdir
    if folder_only:
        return
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            read, write = functools.partial(signal.getsignal, number), functools.partial(signal.signal, number)
            yield f"the handler of {number.name}", read, write
    if torch := sys.modules.get("torch"):
        yield "torch's gradient mode", torch.is_grad_enabled, torch.set_grad_enabled
        yield "torch's default type", torch.get_default_dtype, torch.set_default_dtype
        yield "torch's number of threads", torch.get_num_threads, torch.set_num_threads
        yield "torch's precision", torch.get_float32_matmul_precision, torch.set_float32_matmul_precision


def _working_directory() -> str | None:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return None


@contextmanager
def _random_numbers_apart() -> Iterator[None]:
    """Within the block, global random generators give other numbers, and afterwards go on as if it had not been there.

    The numbers within follow from one that is drawn from `random`, whose state checkpoints hold. So they differ from
    call to call, and are the same in a resumed run.
    """
    seed = random.getrandbits(32)
    state, numpy_state = random.getstate(), np.random.get_state()
    torch = sys.modules.get("torch")
    with ExitStack() as stack:
        if torch is not None:
            used = torch.cuda.is_available() and torch.cuda.is_initialized()
            stack.enter_context(torch.random.fork_rng([torch.cuda.current_device()] if used else []))
            torch.default_generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            random.setstate(state)
            np.random.set_state(numpy_state)

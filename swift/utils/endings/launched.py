"""Errors of a run of several processes: the line of the one that failed first, and losses that follow from it."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path

from swift.utils.lines import one_line

ERROR_FILE = "TORCHELASTIC_ERROR_FILE"  # variable in which torchrun says where it looks for the error of a process
_LOST = re.compile("closed by peer|connection reset|broken pipe|timed out|timeout|remote process exited", re.IGNORECASE)


def describe_loss(error: BaseException) -> str | None:
    """One line about a collective that another process did not answer: it died, hangs or cannot be reached. None for an
    error of another kind."""
    text = str(error)
    gloo = isinstance(error, RuntimeError) and re.search("gloo|nccl", text, re.IGNORECASE) and _LOST.search(text)
    if gloo or any(kind.__name__ == "DistError" for kind in type(error).__mro__):  # torch need not be loaded here
        said = one_line(error).partition(". ")[0]
        return f"another process of the run died, hangs or cannot be reached ({said}); see its messages"
    return None


def first_of_launch(line: str) -> str | None:
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

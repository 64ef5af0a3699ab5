"""A lock on a file, for one process at a time. The system releases it when its holder ends, also after a kill."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from swift.utils.errors import UserError


def hold(file: IO, busy: str) -> None:
    """Lock an open file until it is closed. Raises UserError with the message ``busy`` if another process holds it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UserError(busy) from error


@contextmanager
def only_one(path: Path, busy: str) -> Iterator[None]:
    """Hold the lock file ``path`` within the block. Its folder is made if it is missing.

    Raises UserError with the message ``busy`` if another process holds the lock. The file is not removed afterwards,
    because then two processes could hold locks on two files of the same name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        hold(file, busy)
        yield

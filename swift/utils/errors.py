"""The error for mistakes that a user can fix, and its report on a command line."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable

INTERRUPTED = 130  # 128 + SIGINT, what a shell reports


class UserError(ValueError):
    """A mistake in a file, flag or setting. The message is one line: what, where, and the remedy."""


def one_line(error: Exception) -> str:
    """The message of another library's error as one line of at most 300 characters, or its repr if it has none."""
    text = "" if isinstance(error, KeyError) else " ".join(str(error).split())
    return (text or repr(error))[:300]


def reports_user_errors(main: Callable[..., int | None]) -> Callable[..., int]:
    """Wrap a command's ``main(argv=None)``. A UserError is printed as one line on stderr and gives status 2. Ctrl-C
    gives status 130."""

    @functools.wraps(main)
    def wrapper(*args, **kwargs) -> int:
        try:
            return main(*args, **kwargs) or 0
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("error: interrupted", file=sys.stderr)
            return INTERRUPTED

    return wrapper

"""The error for mistakes a user can mend, and the way a command line reports it."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable

INTERRUPTED = 130  # 128 + SIGINT, what a shell reports


class UserError(ValueError):
    """A mistake in a file, flag or setting. The message is one line: what, where, and the remedy."""


def one_line(error: Exception) -> str:
    """What an error of another library says, as one line of at most 300 characters; its name where it says nothing."""
    text = "" if isinstance(error, KeyError) else " ".join(str(error).split())
    return (text or repr(error))[:300]


def reports_user_errors(main: Callable[..., int | None]) -> Callable[..., int]:
    """Wrap a command's ``main(argv=None)``: a UserError is printed as one line on stderr and becomes status 2, Ctrl-C
    becomes status 130."""

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

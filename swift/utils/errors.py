"""The error for mistakes that a user can fix, and its report on a command line."""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable

INTERRUPTED = 130  # 128 + SIGINT, what a shell reports
LONGEST_MESSAGE = 600  # characters of an error on a terminal; its beginning and its end are kept
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class UserError(ValueError):
    """A mistake in a file, flag or setting. The message is one line: what, where, and the remedy."""


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


def reports_user_errors(main: Callable[..., int | None]) -> Callable[..., int]:
    """Wrap a command's ``main(argv=None)``. A UserError is printed as one line on stderr and gives status 2. Ctrl-C
    gives status 130."""

    @functools.wraps(main)
    def wrapper(*args, **kwargs) -> int:
        try:
            return main(*args, **kwargs) or 0
        except UserError as error:
            print(f"error: {shortened(without_controls(str(error)))}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("error: interrupted", file=sys.stderr)
            return INTERRUPTED

    return wrapper

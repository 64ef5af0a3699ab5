"""Texts on one line of a terminal or a log."""

from __future__ import annotations

import re

LONGEST_MESSAGE = 600  # characters of an error that is printed; its beginning and its end are kept
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


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

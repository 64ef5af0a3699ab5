"""Changes to records by flags, before any of them is encoded: a system turn, and the view of their images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from swift.llm.dataset import Record
from swift.llm.images.source import View
from swift.llm.images.windowing import OUTLIERS
from swift.utils.errors import UserError

PIXELS_VARIABLE = "MAX_PIXELS"  # ms-swift's environment variable for --max_pixels


def system_text(value: str | None) -> str | None:
    """The text of ``--system``: the contents of the file of that name, else the value itself. None if it is empty.

    Raises UserError for a name that ends in .txt or .md if there is no such file, and for a file that is not text.
    """
    if not value:
        return None
    path = Path(value)
    is_name = len(value) < 1024 and "\n" not in value
    if is_name and path.suffix in (".txt", ".md") and not path.is_file():
        raise UserError(f"--system {value}: there is no such file; correct the path, or pass the text itself")
    if not (is_name and path.is_file()):
        return value
    try:
        return path.read_text(encoding="utf-8-sig").strip() or None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--system {value} cannot be read ({error}); save it as UTF-8 text") from error


def max_pixels_of(value: int | None) -> int | None:
    """``--max_pixels``, or the environment variable MAX_PIXELS if the flag is not given. Raises UserError if that is
    not a number."""
    text = os.environ.get(PIXELS_VARIABLE, "")
    if value is not None or not text:
        return value
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"{PIXELS_VARIABLE}={text} must be a whole number of pixels, 1 or more; correct or unset it")
    return int(text)


def view_of(max_pixels: int | None, gray_window: str) -> View:
    """The view of ``--max_pixels`` and ``--gray_window``."""
    return View(max_pixels_of(max_pixels), OUTLIERS if gray_window == "percentiles" else 0.0)


def adapt_record(record: Record, system: str | None, view: View) -> Record:
    """The record with ``system`` as its first turn, unless it has a system turn or ``system`` is None, and with its
    images seen in ``view``."""
    messages = record.messages
    if system is not None and not any(message["role"] == "system" for message in messages):
        messages = ({"role": "system", "content": system}, *messages)
    images = tuple(replace(source, view=view) for source in record.images)
    return replace(record, messages=messages, images=images)


def adapt_records(records: Sequence[Record], system: str | None, view: View) -> list[Record]:
    """The records, each as `adapt_record` makes it."""
    return [adapt_record(record, system, view) for record in records]

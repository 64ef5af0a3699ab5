"""Values of records: texts without broken characters, and words for what a value is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from swift.utils.errors import UserError
from utils.answers import answer_text

_HALF_PAIR = re.compile(r"[\ud800-\udfff]")  # searched after JSON is read, which joins complete pairs


def text_of(item: Mapping[str, Any], field: str) -> str | None:
    """The text in a field; None if it is absent or null. Raises UserError for another value."""
    value = item.get(field)
    if value is not None and not isinstance(value, str):
        raise UserError(f"field '{field}' must be text, it is {describe_kind(value)}")
    check_whole(value or "", f"field '{field}'")
    return value


def check_whole(text: str, place: str) -> None:
    r"""Refuse half of a surrogate pair (``\ud800``): JSON can hold it, tokenizers and UTF-8 files cannot."""
    if not text.isascii() and (half := _HALF_PAIR.search(text)):
        raise UserError(
            f"{place} holds half a character, \\u{ord(half[0]):04x} after {half.start()} characters; "
            "write the complete character, or leave it out"
        )


def describe_kind(value: Any) -> str:
    """The kind of a JSON value in words."""
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return "an empty text" if value == "" else names.get(type(value), "a number")


def text_of_answer(value: Any) -> str | None:
    """One answer as text (`utils.answers.answer_text`); None for a value that is no text, number or truth value."""
    return answer_text(value) if isinstance(value, bool | int | float | str) else None


def plain_answer(value: Any) -> Any:
    """The value of a field ``answer`` with texts in place of numbers, true and false. Other values stay as they are."""
    if isinstance(value, list):
        if all(isinstance(entry, str) for entry in value):
            return value
        texts = [text_of_answer(entry) for entry in value]
        return value if None in texts else texts
    if isinstance(value, bool | int | float):
        return answer_text(value)
    return value

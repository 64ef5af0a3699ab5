"""Measures: numbers with a unit, such as "3 cm", "2.5 x 3 cm" and "12mm"."""

from __future__ import annotations

import re
from collections.abc import Sequence

UNITS = frozenset({"cm", "mm", "cc", "ml", "centimeter", "centimeters", "millimeter", "millimeters"})
_NUMBER = r"\d+(?:\.\d+)?(?:-\d+(?:\.\d+)?)?"
is_number = re.compile(_NUMBER).fullmatch
is_measure = re.compile(rf"{_NUMBER}-?(?:cm|mm|cc|ml)").fullmatch
_BETWEEN_NUMBERS = frozenset({"x", "×", "by", "to", "-", "–"})
_LONGEST_MEASURE = 12


def end_of_measure(words: Sequence[str], start: int) -> int | None:
    """The position after a measure that begins at word ``start`` ("3 cm", "2.5 x 3 cm", "3 cm x 4 cm"); None without a
    unit."""
    end = None
    wants_number = True
    for position in range(start, min(len(words), start + _LONGEST_MEASURE)):
        word = words[position]
        if wants_number:
            if not is_number(word):
                break
            wants_number = False
        elif word in UNITS:
            end = position + 1
        elif word in _BETWEEN_NUMBERS:
            wants_number = True
        else:
            break
    return end

"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence


def align(rows: Sequence[Sequence[str]], gap: int = 3) -> str:
    """Rows of as many cells each, as lines with columns ``gap`` blanks apart."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ((cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join((" " * gap).join(line).rstrip() for line in lines)

"""One table in several forms: terminal, CSV, Markdown, LaTeX, HTML.

A table is a sequence of rows of text cells, the header first. All rows have the same number of cells.
"""

from __future__ import annotations

import csv
import html
import io
import re
from collections.abc import Sequence

from swift.utils.lines import without_controls

Table = Sequence[Sequence[str]]

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}

_FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")  # the last four are full-width forms
_NUMBER = re.compile(r"[+-]?\d*\.?\d+(?:e[+-]?\d+)?|[+-]?(?:inf|nan)", re.IGNORECASE)


def align(rows: Table, gap: int = 3) -> str:
    """Lines of text, with columns ``gap`` blanks apart. Control characters are shown as escapes."""
    rows = [[without_controls(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ((cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join((" " * gap).join(line).rstrip() for line in lines)


def to_csv(rows: Table) -> str:
    """CSV by RFC 4180 with "\\n" line ends. An apostrophe stands before a text that a spreadsheet would compute."""
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows([_inert(cell) for cell in row] for row in rows)
    return stream.getvalue()


def to_markdown(rows: Table) -> str:
    """A GitHub table. The first column is aligned to the left, the others to the right."""
    cells = [[escape_markdown(cell) for cell in row] for row in rows]
    ruler = [":---", *["---:"] * (len(cells[0]) - 1)]
    return "".join(f"| {' | '.join(row)} |\n" for row in [cells[0], ruler, *cells[1:]])


def to_latex(rows: Table, caption: str = "") -> str:
    """A `table` with booktabs rules."""
    head, *body = (" & ".join(_escape(_on_one_line(cell)) for cell in row) + r" \\" for row in rows)
    lines = [
        r"\begin{table}",
        r"\centering",
        *([rf"\caption{{{_escape(_on_one_line(caption))}}}"] if caption else []),
        rf"\begin{{tabular}}{{l{'r' * (len(rows[0]) - 1)}}}",
        r"\toprule",
        head,
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def to_html(rows: Table) -> str:
    """A bare `<table>`."""

    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>\n"

    head, body = line(rows[0], "th"), "".join(line(row, "td") for row in rows[1:])
    return f"<table>\n<thead>\n{head}</thead>\n<tbody>\n{body}</tbody>\n</table>\n"


def escape_markdown(text: str) -> str:
    """``text`` on one line, of which Markdown makes no cell, link, picture or element of HTML."""
    text = _on_one_line(text).replace("\\", r"\\").replace("|", r"\|").replace("](", r"]\(")
    return re.sub(r"<(?=[A-Za-z/!?])", r"\\<", text)


def _inert(cell: str) -> str:
    cell = without_controls(cell)
    return f"'{cell}" if cell.lstrip()[:1] in _FORMULA and not _NUMBER.fullmatch(cell) else cell


def _escape(text: str) -> str:
    return re.sub(r"[\\~^&%$#_{}]", lambda match: _LATEX[match[0]], text)


def _on_one_line(text: str) -> str:
    return without_controls(" ".join(text.split()))

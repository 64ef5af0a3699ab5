from __future__ import annotations

import csv
import io
from html.parser import HTMLParser

from tools.reports.tables import to_csv, to_html, to_latex, to_markdown

ROWS = [["run", "accuracy"], ["lr_4e-6 & β", '0.51 [0.4, "0.6"]'], ["a|b", "<1%"]]


def test_csv_reads_back():
    assert list(csv.reader(io.StringIO(to_csv(ROWS)))) == ROWS


def test_markdown_has_a_ruler_and_keeps_bars_inside_cells():
    assert to_markdown(ROWS).splitlines() == [
        "| run | accuracy |",
        "| :--- | ---: |",
        '| lr_4e-6 & β | 0.51 [0.4, "0.6"] |',
        r"| a\|b | <1% |",
    ]


def test_latex_escapes_what_latex_would_read():
    lines = to_latex(ROWS, caption="50% of x_1").splitlines()
    assert r"lr\_4e-6 \& β & 0.51 [0.4, " + '"0.6"] \\\\' in lines
    assert r"\caption{50\% of x\_1}" in lines
    assert r"\begin{tabular}{lr}" in lines


def test_latex_escapes_a_backslash_once():
    assert r"\textbackslash{}x" in to_latex([["\\x"]])


def test_html_shows_every_cell_as_text():
    class Cells(HTMLParser):
        def __init__(self):
            super().__init__()
            self.cells = []

        def handle_data(self, data):
            if data.strip():
                self.cells.append(data)

    parser = Cells()
    parser.feed(to_html(ROWS))
    assert parser.cells == [cell for row in ROWS for cell in row]

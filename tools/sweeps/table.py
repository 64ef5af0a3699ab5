"""The table of a sweep: one row per setting, in texts for readers and in bare numbers for spreadsheets."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

from tools.reports.tables import to_html
from tools.sweeps.summary import COMPARED, METRICS, SETTINGS, SweepRow, best
from utils.intervals import Interval

HEADINGS = {
    "policy": "sampling",
    "learning_rate": "learning rate",
    "generations": "G",
    "kg_f1": "KG F1",
    "kg_jaccard": "KG Jaccard",
    "exact_set": "exact",
}
STARRED = ("accuracy", "exact_set", "kg_f1", "kg_jaccard", "format")


def sweep_table(rows: Sequence[SweepRow], baseline: str) -> list[list[str]]:
    """The table as texts. The caption has the settings that all rows share. Metrics that no row has are left out."""
    settings = [name for name in SETTINGS if name in ("policy", "size", "rewards") or name not in shared_settings(rows)]
    metrics = [name for name in METRICS if any(name in row.means for row in rows)]
    compared = [name for name in COMPARED if any(name in row.differences for row in rows)]
    less = baseline.replace("external_", "")
    head = [*settings, "runs", *metrics]
    lines = [[*(HEADINGS.get(name, name) for name in head), *(f"{HEADINGS.get(n, n)} - {less}" for n in compared)]]
    if gaps := any(len(row.counted) < len(row.runs) for row in rows):
        lines[0].append("not in the numbers")
    stars = {name: best(rows, name) for name in STARRED}
    for position, row in enumerate(rows):
        named = dict(zip(SETTINGS, row.setting, strict=True))
        line = [named[name].replace("external_", "") for name in settings]
        line.append(f"{len(row.counted)}/{len(row.runs)}")
        for name in metrics:
            star = " *" if position in stars.get(name, ()) and len(rows) > 1 else ""
            line.append(_cell(row.means.get(name), 1 if name == "length" else 3) + _deviation(row, name) + star)
        line += [_cell(row.differences.get(name), 3, "+") for name in compared]
        if gaps:
            line.append("; ".join(run.why_not for run in row.runs if not run.counts))
        lines.append(line)
    return lines


def sweep_numbers(rows: Sequence[SweepRow]) -> list[list[str]]:
    """The table as bare numbers, one per cell, for CSV."""
    head = [*SETTINGS, "runs", "planned"]
    head += [f"{name}{end}" for name in METRICS for end in ("", "_lo", "_hi", "_sd")]
    head += [f"{name}_difference{end}" for name in COMPARED for end in ("", "_lo", "_hi")]
    lines = [[*head, "not_in_the_numbers"]]
    for row in rows:
        line = [*row.setting, str(len(row.counted)), str(len(row.runs))]
        for name in METRICS:
            line += [*_bare(row.means.get(name)), f"{row.deviations[name]:.6g}" if name in row.deviations else ""]
        for name in COMPARED:
            line += _bare(row.differences.get(name))
        lines.append([*line, "; ".join(run.why_not for run in row.runs if not run.counts)])
    return lines


def shared_settings(rows: Sequence[SweepRow]) -> dict[str, str]:
    """The settings that have the same value in all rows."""
    columns = zip(SETTINGS, zip(*(row.setting for row in rows), strict=True), strict=True)
    return {name: values[0] for name, values in columns if len(set(values)) == 1}


def sweep_caption(rows: Sequence[SweepRow], questions: int, people: int) -> str:
    """The caption of the table: questions, patients, and the shared settings."""
    same = [
        f"{HEADINGS.get(name, name)} {value}"
        for name, value in shared_settings(rows).items()
        if name not in ("policy", "size")
    ]
    return (
        f"{questions} questions about {people} patients; mean over seeds [95% interval over patients] "
        f"(standard deviation over seeds); * best of its column. {', '.join(same).replace('external_', '')}"
    ).strip()


def _cell(value: Interval | None, digits: int, sign: str = "") -> str:
    return "-" if value is None else f"{value:{sign}.{digits}f}"


def _deviation(row: SweepRow, name: str) -> str:
    return f" ({row.deviations[name]:.{1 if name == 'length' else 3}f})" if name in row.deviations else ""


def _bare(value: Interval | None) -> list[str]:
    return [""] * 3 if value is None else [f"{number:.6g}" for number in (value.mean, value.lo, value.hi)]


def sweep_page(cells: list[list[str]], caption: str, pictures: Sequence[Path]) -> str:
    """An HTML page with the table and the plots."""
    images = "".join(f'<p><img src="{picture.name}" alt="{picture.stem} of the sweep"></p>\n' for picture in pictures)
    style = (
        "body{font:15px/1.4 sans-serif;margin:2em}table{border-collapse:collapse}img{max-width:100%}"
        "th,td{padding:.3em .7em;border-bottom:1px solid #ccc;text-align:right}"
        "th:first-child,td:first-child{text-align:left}"
    )
    head = f'<meta charset="utf-8"><title>Sweep</title><style>{style}</style>'
    body = f"<h1>Sweep</h1>\n{to_html(cells)}<p>{html.escape(caption)}</p>\n{images}"
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>{body}</body></html>\n'

"""One table over all runs of a sweep, and its plots.

    python -m tools.summarize output/sweep
    python -m tools.summarize output/sweep --baseline external_r1v_acc --output DIR

A line is a setting: its mean over seeds, and in brackets the 95% interval over patients (paired question by question
where it is a difference to the baseline, the same setting trained with the accuracy reward alone). The best of a column
carries a star. Runs that failed or are missing are named in their line and do not enter its numbers. Writes
summary.{json,md,csv,tex,html}, sizes.png and steps.png.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from swift.utils.errors import reports_user_errors
from swift.utils.files import write_json, write_text
from swift.utils.logger import get_logger
from tools.reports.tables import align, to_csv, to_html, to_latex, to_markdown
from tools.sweeps.plots import draw_sizes, draw_steps
from tools.sweeps.summary import (
    BASELINE,
    COMPARED,
    METRICS,
    SETTINGS,
    SweepRow,
    as_document,
    best,
    read_sweep,
    summarize_sweep,
)
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

logger = get_logger()


def sweep_table(rows: Sequence[SweepRow], baseline: str) -> list[list[str]]:
    """The table as texts. Settings that all rows share are left to the caption, metrics that none has are left out."""
    settings = [name for name in SETTINGS if name in ("policy", "size", "rewards") or name not in shared(rows)]
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


def numbers(rows: Sequence[SweepRow]) -> list[list[str]]:
    """The same as bare numbers, one a cell, for CSV."""
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


def shared(rows: Sequence[SweepRow]) -> dict[str, str]:
    """The settings that are the same in all rows."""
    columns = zip(SETTINGS, zip(*(row.setting for row in rows), strict=True), strict=True)
    return {name: values[0] for name, values in columns if len(set(values)) == 1}


def caption(rows: Sequence[SweepRow], questions: int, people: int) -> str:
    """What the table is of, in one sentence or two."""
    same = [
        f"{HEADINGS.get(name, name)} {value}" for name, value in shared(rows).items() if name not in ("policy", "size")
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


def page(cells: list[list[str]], said: str, pictures: Sequence[Path]) -> str:
    """A page with the table and the plots beside it."""
    images = "".join(f'<p><img src="{picture.name}" alt="{picture.stem} of the sweep"></p>\n' for picture in pictures)
    style = (
        "body{font:15px/1.4 sans-serif;margin:2em}table{border-collapse:collapse}img{max-width:100%}"
        "th,td{padding:.3em .7em;border-bottom:1px solid #ccc;text-align:right}"
        "th:first-child,td:first-child{text-align:left}"
    )
    head = f'<meta charset="utf-8"><title>Sweep</title><style>{style}</style>'
    body = f"<h1>Sweep</h1>\n{to_html(cells)}<p>{said}</p>\n{images}"
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>{body}</body></html>\n'


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Flags of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.summarize", description="Summarise the runs of a sweep.", allow_abbrev=False
    )
    parser.add_argument("sweep", type=Path, help="folder that train_loop.sh wrote")
    parser.add_argument("--output", type=Path, help="folder for the summary (default: that of the sweep)")
    parser.add_argument("--baseline", default=BASELINE, metavar="REWARDS",
                        help=f"rewards of the runs to compare with (default: {BASELINE})")  # fmt: skip
    return parser.parse_args(argv)


@reports_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    arguments = parse_arguments(argv)
    output = arguments.output or arguments.sweep
    runs, clusters = read_sweep(arguments.sweep)
    rows = summarize_sweep(runs, clusters, arguments.baseline)
    cells, said = sweep_table(rows, arguments.baseline), caption(rows, len(clusters), len(set(clusters)))
    drawn = [draw_sizes(rows, output / "sizes.png"), draw_steps(rows, output / "steps.png")]
    pictures = [picture for picture in drawn if picture is not None]
    write_json(output / "summary.json", {"questions": len(clusters), "rows": as_document(rows)})
    write_text(output / "summary.csv", to_csv(numbers(rows)))
    write_text(output / "summary.md", f"{to_markdown(cells)}\n{said}\n")
    write_text(output / "summary.tex", to_latex(cells, said))
    write_text(output / "summary.html", page(cells, said, pictures))
    print(f"{align(cells)}\n\n{said}")
    if not any(row.differences for row in rows):
        logger.info("no run was trained with %s alone, so there is nothing to compare with", arguments.baseline)
    logger.info("wrote summary.{json,md,csv,tex,html} and %d pictures to %s", len(pictures), output)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""A contact sheet: one captioned film per thing that the demo world can show."""

from __future__ import annotations

import os
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from tools.demo_world.canvas import DRAWING_STYLES, USUAL_STYLE
from tools.demo_world.facts import DEVICES, Finding, Study
from tools.demo_world.render import draw_study

_COLUMNS, _TILE, _CAPTION = 5, 224, 24

_CASES: tuple[tuple[str, str, str, tuple[Finding, ...], tuple[str, ...]], ...] = (
    ("no finding, PA", "pa", "m", (), ()),
    ("no finding, AP", "ap", "f", (), ()),
    ("small left effusion", "pa", "m", (Finding("pleural effusion", "left", "lower", "small"),), ()),
    ("large right effusion", "ap", "m", (Finding("pleural effusion", "right", "lower", "large"),), ()),
    ("small right pneumothorax", "pa", "m", (Finding("pneumothorax", "right", "upper", "small"),), ()),
    ("large left pneumothorax", "ap", "f", (Finding("pneumothorax", "left", "upper", "large"),), ()),
    ("right upper consolidation", "pa", "m", (Finding("consolidation", "right", "upper"),), ()),
    ("left lower consolidation", "pa", "f", (Finding("consolidation", "left", "lower"),), ()),
    ("left mid nodule", "pa", "m", (Finding("nodule", "left", "mid"),), ()),
    ("right basal atelectasis", "ap", "m", (Finding("atelectasis", "right", "lower"),), ()),
    ("mild cardiomegaly", "pa", "f", (Finding("cardiomegaly", severity="mild"),), ()),
    ("severe cardiomegaly", "ap", "m", (Finding("cardiomegaly", severity="severe"),), ()),
    ("severe pulmonary edema", "ap", "m", (Finding("pulmonary edema", None, "mid", "severe"),), ()),
    ("endotracheal tube", "ap", "f", (), DEVICES[:1]),
    ("left chest pacemaker", "pa", "m", (), DEVICES[1:]),
)


def write_sheet(path: Path, seed: int, style: str = USUAL_STYLE) -> None:
    """Draw the cases and write them as one PNG of 64 gray levels, which keeps the file small."""
    rows = -(-len(_CASES) // _COLUMNS)
    sheet = Image.new("L", (_COLUMNS * _TILE, rows * (_TILE + _CAPTION)), 255)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=15)
    for number, (caption, view, sex, findings, devices) in enumerate(_CASES):
        study = Study("demo", "demo", "demo", number, number, view, sex, findings, devices)
        film = Image.fromarray(draw_study(study, seed, DRAWING_STYLES[style]))
        film = film.resize((_TILE - 4, _TILE - 4), Image.Resampling.LANCZOS)
        x, y = (number % _COLUMNS) * _TILE, (number // _COLUMNS) * (_TILE + _CAPTION)
        sheet.paste(film, (x + 2, y + 2))
        draw.text((x + _TILE / 2, y + _TILE + _CAPTION / 2 - 2), caption, fill=0, font=font, anchor="mm")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    sheet.point([level // 4 * 85 // 21 for level in range(256)]).save(temporary, "PNG", optimize=True)
    os.replace(temporary, path)

"""Pictures of the demo world: each finding and device shows in its place."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tools.demo_world.canvas import DRAWING_STYLES
from tools.demo_world.facts import Finding, Study
from tools.demo_world.render import draw_study

BLANK = Study("demo-0", "demo-0", "demo-0", patient=5, index=5, view="pa", sex="m")

# What is drawn, the box (x0, y0, x1, y1) of the film where it must show, and how the box's mean level must change.
# The patient's left is on the right of the film: x > 224.
VISIBLE = [
    ({"findings": (Finding("pleural effusion", "left", "lower", "small"),)}, (345, 290, 385, 320), 15),
    ({"findings": (Finding("pleural effusion", "right", "lower", "large"),)}, (80, 220, 150, 290), 50),
    ({"findings": (Finding("pneumothorax", "right", "upper", "small"),)}, (120, 65, 165, 85), -8),
    ({"findings": (Finding("pneumothorax", "left", "upper", "large"),)}, (300, 90, 345, 180), -12),
    ({"findings": (Finding("consolidation", "right", "upper"),)}, (110, 95, 160, 140), 25),
    ({"findings": (Finding("consolidation", "left", "lower"),)}, (320, 250, 360, 290), 25),
    ({"findings": (Finding("nodule", "left", "mid"),)}, (300, 165, 365, 235), 8),
    ({"findings": (Finding("atelectasis", "right", "lower"),)}, (80, 255, 140, 300), 15),
    ({"findings": (Finding("cardiomegaly", None, None, "mild"),)}, (315, 250, 330, 300), 30),
    ({"findings": (Finding("pulmonary edema", None, "mid", "severe"),)}, (110, 170, 170, 250), 20),
    ({"devices": ("endotracheal tube",)}, (210, 40, 238, 100), 20),
    ({"devices": ("pacemaker",)}, (350, 75, 390, 115), 30),
]  # fmt: skip


# What is drawn in the shifted style, and how the film must change by more than the grain where it changes most.
SHIFTED_FACTS = [facts for facts, _, _ in VISIBLE] + [{"view": "ap"}, {"sex": "f"}]


def test_the_usual_style_draws_as_it_did_before_there_were_styles() -> None:
    """The mean levels are those of 2026-11-26. All bytes were compared once, for the 1,910 films of the default
    world."""
    shown = replace(BLANK, findings=(Finding("consolidation", "left", "mid"),), devices=("pacemaker",))
    films = [draw_study(study, seed=0) for study in (BLANK, shown)]
    assert [float(film.mean()) for film in films] == pytest.approx([122.291, 125.453], abs=0.01)


@pytest.mark.parametrize("facts", SHIFTED_FACTS, ids=lambda value: str(value)[:60])
def test_the_shifted_style_shows_every_fact(facts: dict) -> None:
    """Grain is a function of the film alone, so the two films differ by the fact alone."""
    blank, drawn = (draw_study(s, 0, DRAWING_STYLES["shifted"]).astype(float) for s in (BLANK, replace(BLANK, **facts)))
    changed = np.abs(drawn - blank) > 8
    assert changed.sum() > 150


def test_the_shifted_style_is_another_look_of_the_same_bodies() -> None:
    """Smaller chest, coarser grain, lead letters in a lower corner."""
    usual, shifted = (draw_study(BLANK, 0, DRAWING_STYLES[name]).astype(float) for name in ("usual", "shifted"))
    assert np.abs(usual - shifted).mean() > 10
    grain = [np.abs(np.diff(film[20:60, 100:140], axis=1)).mean() for film in (usual, shifted)]
    assert grain[1] > 2 * grain[0]
    assert (shifted[380:440, 380:440] > 150).sum() > 20
    assert (shifted[8:60, 380:440] > 150).sum() == 0


@pytest.mark.parametrize(("facts", "box", "change"), VISIBLE, ids=lambda value: str(value)[:60])
def test_a_finding_shows_where_it_is_and_nowhere_far_away(facts: dict, box: tuple, change: float) -> None:
    x0, y0, x1, y1 = box
    drawn = replace(BLANK, **facts)
    difference = draw_study(drawn, seed=0).astype(float) - draw_study(BLANK, seed=0)
    inside = difference[y0:y1, x0:x1].mean()
    assert inside * np.sign(change) > abs(change)
    assert np.abs(difference[400:, :]).max() <= 1


def test_sides_are_the_patients_sides() -> None:
    for side, half in (("left", slice(224, 448)), ("right", slice(0, 224))):
        drawn = replace(BLANK, findings=(Finding("consolidation", side, "mid"),))
        difference = draw_study(drawn, seed=0).astype(float) - draw_study(BLANK, seed=0)
        assert np.abs(difference[:, half]).sum() > 0.95 * np.abs(difference).sum()


def test_view_and_sex_show() -> None:
    blank = draw_study(BLANK, seed=0).astype(float)
    ap = draw_study(replace(BLANK, view="ap"), seed=0)
    female = draw_study(replace(BLANK, sex="f"), seed=0)
    assert (ap[10:60, 10:70] > 200).sum() > 50
    assert (blank[10:60, 10:70] > 200).sum() == 0
    assert (female - blank)[290:320, 80:130].mean() > 10


def test_a_later_film_differs_and_so_does_another_patients_body() -> None:
    later = replace(BLANK, index=6)
    stranger = replace(BLANK, index=6, patient=9)
    first, second, other = (draw_study(study, seed=0).astype(float) for study in (BLANK, later, stranger))
    assert not np.array_equal(first, second)
    assert not np.array_equal(second, other)

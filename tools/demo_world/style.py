"""Styles of drawing: constants of a machine and of the people it films. "shifted" is another hospital's.

Both styles show every finding where it is. They differ in what a policy must not hold on to: exposure, contrast, grain,
focus, the size of the chest on the film, its build, and the place of the lead letters.
"""

from __future__ import annotations

from dataclasses import dataclass

from tools.demo_world.canvas import CANVAS_SIZE

Range = tuple[float, float]


@dataclass(frozen=True)
class DrawingStyle:
    """Constants of drawing. Ranges are drawn from evenly.

    Attributes:
        width, height, heart: factors of a patient's build.
        tissue: density of the soft tissue.
        ribs: factor of the density of bones.
        lung: density of aerated lung.
        torso: lower end of the drawn trunk, in canonical pixels.
        shift_x, shift_y: place of the chest on the film, in pixels.
        scale: size of the chest on the film.
        turn: standard deviation of its rotation, in radians.
        beam: largest slope of the exposure towards an edge.
        exposure, contrast: of the film.
        gamma: exponent of the tone curve; above 1 the middle tones are darker.
        resolution: pixels per side that the detector tells apart.
        grain: largest noise, in gray levels.
        letters: size of the lead letters.
        letters_low: True if the letters are in a lower corner.
    """

    width: Range = (0.94, 1.04)
    height: Range = (0.95, 1.05)
    heart: Range = (0.95, 1.05)
    tissue: Range = (0.57, 0.65)
    ribs: float = 1.0
    lung: float = 0.19
    torso: float = 480
    shift_x: Range = (-8, 8)
    shift_y: Range = (-6, 8)
    scale: Range = (0.96, 1.03)
    turn: float = 0.018
    beam: float = 0.02
    exposure: Range = (-0.03, 0.04)
    contrast: Range = (0.92, 1.08)
    gamma: float = 1.0
    resolution: int = CANVAS_SIZE
    grain: float = 3.0
    letters: int = 30
    letters_low: bool = False


USUAL = "usual"
STYLES = {
    USUAL: DrawingStyle(),
    "shifted": DrawingStyle(
        width=(0.88, 0.98),
        height=(0.98, 1.08),
        heart=(0.92, 1.02),
        tissue=(0.60, 0.70),
        ribs=1.35,
        lung=0.24,
        torso=560,
        shift_x=(-14, 14),
        shift_y=(-16, 4),
        scale=(0.90, 0.95),
        turn=0.035,
        beam=0.07,
        exposure=(-0.06, 0.02),
        contrast=(0.95, 1.15),
        gamma=1.25,
        resolution=300,
        grain=14.0,
        letters=24,
        letters_low=True,
    ),
}

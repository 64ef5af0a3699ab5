"""A healthy chest: the body of one patient and the layers of its drawing.

Densities are on the scale of a film: 0 is black (air) and 1 is white (metal). Lung is about 0.2, soft tissue about 0.6.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tools.demo_world.canvas import (
    Canvas,
    DrawingStyle,
    Plate,
    Point,
    Stroke,
    clouds,
    enlarged,
    smooth_closed,
    smooth_open,
)

MIDLINE = 224.0
HEART_RATIO = {None: 0.43, "mild": 0.52, "moderate": 0.60, "severe": 0.68}
THORAX_WIDTH = 328.0

# The patient's left lung. The right one is its mirror image about the midline, with a higher dome.
_LUNG = (
    (290, 58), (326, 78), (357, 125), (377, 192), (388, 262), (391, 336),
    (368, 322), (322, 306), (278, 312), (252, 324), (250, 250), (252, 180), (256, 122), (266, 80),
)  # fmt: skip
_DOME = slice(6, 10)

_Segment = tuple[Point, Point, float]  # start, end, width


@dataclass(frozen=True)
class Body:
    """The build of a patient, the same in all of the patient's studies. Lengths are in canonical pixels, factors near
    1."""

    width: float
    height: float
    dome_left: float
    dome_right: float
    heart: float
    tissue: float
    rib_phase: float
    rib_strength: float
    vessel_seed: int

    @classmethod
    def sample(cls, rng: np.random.Generator, style: DrawingStyle) -> Body:
        return cls(
            width=rng.uniform(*style.width),
            height=rng.uniform(*style.height),
            dome_left=rng.uniform(-6, 8),
            dome_right=rng.uniform(-20, -4),
            heart=rng.uniform(*style.heart),
            tissue=rng.uniform(*style.tissue),
            rib_phase=rng.uniform(-7, 7),
            rib_strength=rng.uniform(0.75, 1.2) * style.ribs,
            vessel_seed=int(rng.integers(2**31)),
        )

    def at(self, side: str, x: float, y: float) -> Point:
        """This body's point for a canonical place on the patient's left (x > 224), mirrored for the right."""
        reach = (x - MIDLINE) * self.width
        return (MIDLINE + (reach if side == "left" else -reach), 200 + (y - 200) * self.height)

    def lung(self, side: str, lift: float = 0.0) -> np.ndarray:
        """The outline of one lung [n, 2]. ``lift`` raises its dome, in pixels."""
        points = np.array([self.at(side, x, y) for x, y in _LUNG])
        points[_DOME, 1] += (self.dome_left if side == "left" else self.dome_right) - lift
        return smooth_closed(points)

    def heart_outline(self, severity: str | None, wide: float) -> np.ndarray:
        """The heart's outline [n, 2] for a severity of cardiomegaly or None. ``wide`` magnifies it as AP films do."""
        ratio = HEART_RATIO[severity] * self.heart * wide
        left, right = 0.63 * ratio * THORAX_WIDTH, 0.37 * ratio * THORAX_WIDTH
        tall = 12 * (HEART_RATIO[severity] - 0.43) / 0.25
        points = (
            (206, 168 - tall), (MIDLINE - 0.84 * right, 208 - tall), (MIDLINE - right, 258),
            (MIDLINE - 0.9 * right, 304), (224, 338), (MIDLINE + 0.72 * left, 334),
            (MIDLINE + left, 304), (MIDLINE + 0.9 * left, 256 - tall),
            (MIDLINE + 0.58 * left, 206 - tall), (244, 166 - tall),
        )  # fmt: skip
        return smooth_closed([self.at("left", x, y) for x, y in points])


def body_mask(canvas: Canvas, body: Body, style: DrawingStyle) -> np.ndarray:
    """Torso, neck and shoulders against black air."""
    half = ((26, -30), (30, 26), (78, 44), (150, 62), (196, 92), (212, 150), (206, 250), (212, style.torso))
    outline = [body.at("left", MIDLINE + x, y) for x, y in half]
    outline += [body.at("right", MIDLINE + x, y) for x, y in reversed(half)]
    return canvas.fill(outline, blur=5)


def bones(canvas: Canvas, body: Body) -> np.ndarray:
    """Density added by ribs, clavicles and spine."""
    strokes: list[Stroke] = []
    for side in ("left", "right"):
        for i in range(10):
            strokes += _rib(_posterior_rib(body, side, i), 12.5, 0.34)
        for i in range(1, 7):
            strokes += _rib(_anterior_rib(body, side, i), 12, 0.22)
    ribs = canvas.layer(strokes, blur=1.4)
    clavicles = []
    for side in ("left", "right"):
        curve = [body.at(side, x, y) for x, y in ((240, 96), (270, 90), (310, 74), (352, 66), (392, 62))]
        clavicles += [Stroke(smooth_open(curve), 15, 0.7), Stroke(smooth_open(curve), 9, 0.5)]
    spine = [(body.at("left", 204, 0)), body.at("left", 244, 0), body.at("left", 248, 520), body.at("left", 200, 520)]
    discs = [Stroke([body.at("left", 207, y), body.at("left", 241, y)], 4, 0.65) for y in range(24, 500, 27)]
    column = canvas.layer([Plate(spine), *discs], blur=2.5)
    return 0.25 * body.rib_strength * ribs + 0.17 * canvas.layer(clavicles, blur=1.6) + 0.07 * column


def _rib(points: np.ndarray, width: float, strength: float) -> list[Stroke]:
    """Strokes of a rib, brighter at its two cortical edges than between them."""
    return [Stroke(points, width, strength * 1.5), Stroke(points, width - 5, strength)]


def _posterior_rib(body: Body, side: str, i: int) -> np.ndarray:
    y = 50 + 27 * i + body.rib_phase
    wall = 118 + 60 * min(1.0, (i + 0.5) / 6.5)
    course = ((16, 0), (0.35 * wall, -9 - i), (0.72 * wall, 8), (0.93 * wall, 32), (wall, 58 + 2 * i))
    return smooth_open([body.at(side, MIDLINE + x, y + dy) for x, dy in course])


def _anterior_rib(body: Body, side: str, i: int) -> np.ndarray:
    y = 78 + 33 * i + body.rib_phase
    wall = 122 + 58 * min(1.0, (i + 1) / 6)
    course = ((wall, 0), (0.9 * wall, 30), (0.66 * wall, 52), (0.42 * wall, 58))
    return smooth_open([body.at(side, MIDLINE + x, y + dy) for x, dy in course])


def mediastinum(canvas: Canvas, body: Body) -> np.ndarray:
    """Mask of the great vessels, the aortic knob and the upper mediastinum."""
    points = (
        (198, -20), (199, 90), (195, 150), (192, 240), (206, 330), (246, 330), (256, 240), (254, 176), (266, 150),
        (266, 132), (254, 118), (250, 90), (250, -20),
    )  # fmt: skip
    return canvas.fill(smooth_closed([body.at("left", x, y) for x, y in points]), blur=3)


def airway(canvas: Canvas, body: Body) -> np.ndarray:
    """Mask of the air in trachea and main bronchi."""
    trunk = [body.at("left", 223, y) for y in (-10, 60, 150)]
    strokes = [Stroke(trunk, 17)]
    strokes += [Stroke([body.at(side, 224, 148), body.at(side, 262, 186)], 9) for side in ("left", "right")]
    return canvas.layer(strokes, blur=2.5)


def vessels(canvas: Canvas, body: Body, congestion: float = 0.0) -> np.ndarray:
    """Crisp density of the tree of lung vessels. ``congestion`` from 0 to 1 widens them."""
    rng = np.random.default_rng(body.vessel_seed)
    strokes: list[Stroke] = []
    for side in ("left", "right"):
        segments: list[_Segment] = []
        for angle in np.linspace(-1.25, 1.25, 9) + rng.uniform(-0.08, 0.08, 9):
            _branch((258, 190), angle, 6.5, 26, 4, rng, segments)
        for start, end, width in segments:
            strength = min(1.0, 0.25 + width / 9)
            strokes.append(
                Stroke((body.at(side, *start), body.at(side, *end)), width * (1 + 0.2 * congestion), strength)
            )
    return (0.28 + 0.04 * congestion) * canvas.layer(strokes, blur=1.0, crisp=True)


def hila(canvas: Canvas, body: Body) -> np.ndarray:
    """Density of the lung roots."""
    return 0.16 * canvas.blobs([body.at(side, 259, 192) for side in ("left", "right")], (12, 22))


def _branch(
    start: Point, angle: float, width: float, length: float, depth: int, rng: np.random.Generator, out: list[_Segment]
) -> None:
    """One vessel in the left lung's coordinates. It curves a little and gives off one side branch at each step."""
    end = (start[0] + length * math.cos(angle), start[1] + 1.15 * length * math.sin(angle))
    out.append((start, end, width))
    if depth == 0:
        return
    _branch(end, angle + rng.normal(0, 0.16), width * 0.7, length, depth - 1, rng, out)
    if depth >= 2:
        fork = angle + (1 if rng.random() < 0.5 else -1) * rng.uniform(0.45, 0.7)
        _branch(end, fork, width * 0.5, length * 0.8, min(depth - 1, 1), rng, out)


def breasts(canvas: Canvas, body: Body) -> np.ndarray:
    """Soft shadows over the lower lungs with a crisp lower fold."""
    masks = [smooth_closed([body.at(side, x, y) for x, y in
             ((262, 230), (318, 196), (384, 232), (398, 296), (368, 342), (312, 352), (270, 316))])
             for side in ("left", "right")]  # fmt: skip
    lower = np.clip((canvas.y - 205) / 110, 0, 1)
    return canvas.fill(*masks, blur=4) * enlarged(lower)


def scapulae(canvas: Canvas, body: Body) -> np.ndarray:
    """Shoulder blades over the upper outer lungs, as on AP films: plates with brighter medial borders."""
    plate = ((344, 84), (392, 78), (410, 130), (392, 214), (370, 236), (352, 170))
    outlines = [smooth_closed([body.at(side, *point) for point in plate]) for side in ("left", "right")]
    borders = [Stroke(np.vstack([outline, outline[:1]]), 4, 0.9) for outline in outlines]
    return canvas.layer([Plate(outline, 0.5) for outline in outlines] + borders, blur=1.6)


def flesh(canvas: Canvas, body: Body, rng: np.random.Generator) -> np.ndarray:
    """Density of the soft tissue: thinner towards the flanks, denser below the domes, gas in the stomach."""
    outward = (canvas.x - MIDLINE) / 200
    depth = np.clip((canvas.y - 300) / 120, 0, 1)
    gas = canvas.blobs([body.at("left", 312, 350 + body.dome_left)], (26, 12))
    return body.tissue + enlarged(0.10 * depth - 0.09 * outward**2) + 0.012 * clouds(rng, 14) - 0.20 * gas


def stamp_marker(density: np.ndarray, view: str, rng: np.random.Generator, style: DrawingStyle) -> None:
    """Write the lead letters of the view into an upper or lower corner of the film, in place: AP on the patient's right
    side, PA on the left."""
    image = Image.new("L", (52, 40))
    ImageDraw.Draw(image).text((4, 2), view.upper(), fill=242, font=ImageFont.load_default(size=style.letters))
    y, x = (
        int(rng.integers(8, 24)),
        int(rng.integers(5, 14)) if view == "ap" else density.shape[1] - int(rng.integers(52, 62)),
    )
    y = density.shape[0] - y - 40 if style.letters_low else y
    corner = density[y : y + 40, x : x + 52]
    np.maximum(corner, np.asarray(image, dtype=np.float32) * np.float32(1 / 255), out=corner)


def lung_texture(rng: np.random.Generator) -> np.ndarray:
    """Faint signed mottling of the lungs."""
    return 0.012 * clouds(rng, 40) + 0.014 * clouds(rng, 9)

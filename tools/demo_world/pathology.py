"""Findings and devices: each function turns one fact into layers on the film."""

from __future__ import annotations

import numpy as np

from tools.demo_world.anatomy import MIDLINE, Body
from tools.demo_world.canvas import Canvas, Plate, Point, Stroke, clouds, enlarged, smooth_closed, smooth_open
from tools.demo_world.facts import Finding

# Height of the fluid at the chest wall and how far it falls towards the midline, in canonical pixels.
_FLUID = {"small": (280.0, 52.0), "moderate": (234.0, 46.0), "large": (182.0, 38.0)}
# Depth of the air at the apex and at the chest wall.
_AIR = {"small": (46.0, 17.0), "large": (96.0, 62.0)}
_ZONE_Y = {"upper": 118.0, "mid": 200.0, "lower": 272.0}
_ZONE_X = {"upper": 312.0, "mid": 334.0, "lower": 340.0}


def _site(body: Body, finding: Finding, rng: np.random.Generator) -> Point:
    """A place in the finding's zone, away from the midline so that the heart does not hide it."""
    x = _ZONE_X[finding.zone] + rng.uniform(-12, 12)
    y = _ZONE_Y[finding.zone] + rng.uniform(-12, 12)
    return body.at(finding.side, x, y)


def fluid(canvas: Canvas, body: Body, finding: Finding) -> np.ndarray:
    """Mask of a pleural effusion: everything below a meniscus that climbs the chest wall."""
    level, fall = _FLUID[finding.severity]
    outward = (canvas.x - MIDLINE) * (1 if finding.side == "left" else -1) / (160 * body.width)
    level = 200 + (level - 200) * body.height
    surface = level + fall * (1 - np.clip(outward, 0, 1) ** 2.2)
    below = np.clip((canvas.y - surface) / 12 + 0.5, 0, 1)
    return enlarged(below * (outward > 0))


def collapsed_lung(body: Body, finding: Finding) -> np.ndarray:
    """The outline [n, 2] of the lung beside a pneumothorax: drawn in from apex and chest wall, fixed at its base."""
    apex, wall = _AIR[finding.severity]
    outline = body.lung(finding.side).copy()
    outward = np.abs(outline[:, 0] - MIDLINE) / (165 * body.width)
    height = np.clip((330 - outline[:, 1]) / 270, 0, 1)
    sign = 1 if finding.side == "left" else -1
    outline[:, 0] -= sign * wall * np.clip(1.6 * outward - 0.5, 0, 1) * np.clip(height * 2.2, 0, 1)
    outline[:, 1] += apex * height**2.2
    return outline


def pleural_line(canvas: Canvas, outline: np.ndarray) -> np.ndarray:
    """Crisp mask of the bright edge of a collapsed lung."""
    return canvas.layer([Stroke(np.vstack([outline, outline[:1]]), 3.0)], blur=0.8, crisp=True)


def consolidation(canvas: Canvas, body: Body, finding: Finding, rng: np.random.Generator) -> np.ndarray:
    """Density of airspace opacity: a fluffy patch with air bronchograms."""
    center = _site(body, finding, rng)
    hill = canvas.blobs([center], (rng.uniform(34, 40), rng.uniform(29, 35)), rng.uniform(-0.4, 0.4))
    hill = hill * (1 + 0.10 * clouds(rng, 26))
    patch = np.clip((hill - 0.38) * 3.0, 0, 1)
    inward = np.arctan2(190 - center[1], MIDLINE - center[0])
    twigs = []
    for angle in inward + np.array([-0.5, 0.0, 0.5]):
        reach = np.array([np.cos(angle), np.sin(angle)])
        twigs.append(Stroke([center + 34 * reach, center - 22 * reach], 4, 1.0))
    return patch * (0.38 - 0.14 * canvas.layer(twigs, blur=1.5))


def nodule(canvas: Canvas, body: Body, finding: Finding, rng: np.random.Generator) -> np.ndarray:
    """Density of a round nodule with a sharp, slightly irregular edge."""
    x, y = _site(body, finding, rng)
    radius = rng.uniform(14, 17.5)
    angles = np.linspace(0, 2 * np.pi, 10, endpoint=False)
    radii = radius * rng.uniform(0.93, 1.07, 10)
    outline = np.stack([x + radii * np.cos(angles), y + radii * np.sin(angles)], -1)
    return 0.36 * canvas.fill(smooth_closed(outline), blur=1.5)


def atelectasis(canvas: Canvas, body: Body, finding: Finding, rng: np.random.Generator) -> np.ndarray:
    """Density of dense linear bands above one lung base."""
    bands = []
    for y in (262.0, 279.0, 296.0):
        y, tilt = y + rng.uniform(-3, 3), rng.uniform(-4, 10)
        start = 300 + rng.uniform(-12, 8)
        course = ((start, y + tilt), (start + 34, y + 2), (start + rng.uniform(66, 78), y + 5))
        bands.append(Stroke(smooth_open([body.at(finding.side, *point) for point in course]), rng.uniform(7.5, 9)))
    haze = canvas.blobs([body.at(finding.side, 338, 284)], (38, 18))
    return 0.33 * canvas.layer(bands, blur=1.4) + 0.08 * haze


def edema(canvas: Canvas, body: Body, finding: Finding, rng: np.random.Generator) -> np.ndarray:
    """Density of perihilar haze in both lungs with short septal lines at the outer bases."""
    strong = finding.severity == "severe"
    wings = canvas.blobs([body.at(side, 306, 208) for side in ("left", "right")], (46, 66))
    haze = wings * (1 + 0.16 * clouds(rng, 30))
    septa = []
    for side in ("left", "right"):
        for y in range(236, 304, 11):
            wall = 378 + (y - 236) * 0.1
            septa.append(Stroke([body.at(side, wall, y), body.at(side, wall - 20, y + 3)], 1.6))
    return (0.36 if strong else 0.18) * haze + (0.18 if strong else 0.10) * canvas.layer(septa, blur=0.7)


def endotracheal_tube(body: Body, rng: np.random.Generator) -> list[Stroke | Plate]:
    """A tube in the trachea that ends above the carina, with its radio-opaque stripe."""
    tip = rng.uniform(112, 132)
    walls = [Stroke([body.at("left", x, -20), body.at("left", x + 1, tip)], 2, 0.5) for x in (217, 230)]
    return [*walls, Stroke([body.at("left", 223, -20), body.at("left", 224, tip)], 4, 0.9)]


def pacemaker(body: Body, rng: np.random.Generator) -> list[Stroke | Plate]:
    """A generator below the left clavicle and its lead through the vein into the right ventricle."""
    x, y = body.at("left", 372 + rng.uniform(-6, 6), 96 + rng.uniform(-6, 6))
    case = [(x - 24, y - 10), (x - 14, y - 19), (x + 14, y - 19), (x + 24, y - 8), (x + 22, y + 14), (x + 6, y + 21),
            (x - 16, y + 17), (x - 25, y + 4)]  # fmt: skip
    header = [(x - 24, y - 12), (x - 8, y - 20), (x - 2, y - 9), (x - 20, y - 2)]
    course = [(x - 20, y - 10), (x - 60, y - 18), body.at("left", 252, 88), body.at("left", 213, 122),
              body.at("left", 205, 190), body.at("left", 210, 256), body.at("left", 240, 296),
              body.at("left", 272, 306)]  # fmt: skip
    lead = smooth_open(course, steps=8)
    return [Stroke(lead, 3.4, 0.75), Stroke(lead[-5:], 6, 0.9), Plate(smooth_closed(case), 1.0), Plate(header, 0.65)]

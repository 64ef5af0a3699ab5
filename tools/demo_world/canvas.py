"""Drawing helpers: shapes in canonical coordinates become soft float32 masks of one posed image; and styles of drawing.

Canonical coordinates are pixels of an unposed 448 x 448 film, x to the right and y down. The patient's left is on the
right of the film. A pose (shift, scale, turn) moves them to the image, so all anatomy moves together. Soft layers are
drawn at half the film's size, which is four times faster. Crisp layers are drawn at full size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

CANVAS_SIZE = 448
HALF = CANVAS_SIZE // 2
_COARSE = CANVAS_SIZE // 4

Point = tuple[float, float]
Outline = Sequence[Point] | np.ndarray
Range = tuple[float, float]


@dataclass(frozen=True)
class Stroke:
    """A polyline with a width in pixels of the film and a strength from 0 to 1."""

    points: Outline
    width: float
    strength: float = 1.0


@dataclass(frozen=True)
class Plate:
    """A filled outline with a strength from 0 to 1."""

    points: Outline
    strength: float = 1.0


@dataclass(frozen=True)
class DrawingStyle:
    """Constants of a machine and of the people it films. Ranges are drawn from evenly.

    Every finding shows in every style.

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


USUAL_STYLE = "usual"
DRAWING_STYLES = {
    USUAL_STYLE: DrawingStyle(),
    "shifted": DrawingStyle(
        width=(0.91, 1.00),
        height=(0.97, 1.06),
        heart=(0.94, 1.03),
        tissue=(0.60, 0.70),
        ribs=1.35,
        lung=0.24,
        torso=560,
        shift_x=(-10, 10),
        shift_y=(-10, 6),
        scale=(0.93, 0.98),
        turn=0.028,
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


@lru_cache
def _catmull_rom_weights(steps: int) -> np.ndarray:
    """Weights [steps, 4] of the four control points around a segment."""
    t = np.arange(steps)[:, None] / steps
    return 0.5 * np.hstack([-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, -(t**2) + t**3])


def smooth_closed(points: Outline, steps: int = 6) -> np.ndarray:
    """A closed Catmull-Rom curve through the points with ``steps`` samples per segment: [len(points) * steps, 2]."""
    points = np.asarray(points, dtype=np.float64)
    around = (np.arange(len(points))[:, None] + np.arange(-1, 3)) % len(points)
    return (_catmull_rom_weights(steps) @ points[around]).reshape(-1, 2)


def smooth_open(points: Outline, steps: int = 5) -> np.ndarray:
    """An open Catmull-Rom curve from the first point to the last: [(len(points) - 1) * steps + 1, 2]."""
    return smooth_closed([points[0], *points, points[-1]], steps)[steps : -2 * steps + 1]


class Canvas:
    """One posed image. Methods return float32 layers, 0 to 1: [HALF, HALF], or [SIZE, SIZE] if ``crisp``."""

    def __init__(self, shift: Point = (0.0, 0.0), scale: float = 1.0, turn: float = 0.0) -> None:
        """Set the pose: ``shift`` in pixels, ``turn`` in radians, both about the film's center."""
        cos, sin = math.cos(turn) * scale, math.sin(turn) * scale
        self._matrix = np.array([[cos, -sin], [sin, cos]])
        self._offset = np.full(2, CANVAS_SIZE / 2) + shift - self._matrix @ np.full(2, CANVAS_SIZE / 2)
        self._scale = scale
        axis = (np.arange(_COARSE) + 0.5) * (CANVAS_SIZE / _COARSE)
        pixels = np.stack(np.meshgrid(axis, axis), -1) - self._offset
        canonical = (pixels @ np.linalg.inv(self._matrix).T).astype(np.float32)
        self.x, self.y = canonical[..., 0], canonical[..., 1]  # canonical coordinates on a coarse grid

    def _place(self, points: Outline, step: int) -> list[float]:
        """Canonical points as pixels of the image, or of an image ``step`` times smaller: x, y, x, y, ..."""
        placed = np.asarray(points, dtype=np.float64) @ self._matrix.T + self._offset
        return (placed / step).ravel().tolist()

    def layer(self, shapes: Sequence[Stroke | Plate], blur: float = 1.0, crisp: bool = False) -> np.ndarray:
        """Draw shapes, later ones over earlier ones, each at its own strength. ``blur`` is in pixels of the film."""
        step = 1 if crisp else 2
        image = Image.new("L", (CANVAS_SIZE // step, CANVAS_SIZE // step))
        draw = ImageDraw.Draw(image)
        placed = self._place([point for shape in shapes for point in shape.points], step)
        start = 0
        for shape in shapes:
            end = start + 2 * len(shape.points)
            fill = round(255 * shape.strength)
            if isinstance(shape, Plate):
                draw.polygon(placed[start:end], fill=fill)
            else:
                draw.line(placed[start:end], fill=fill, width=max(1, round(shape.width * self._scale / step)))
            start = end
        return _soften(image, blur / step)

    def fill(self, *outlines: Outline, blur: float = 1.5) -> np.ndarray:
        """The union of closed outlines at full strength."""
        return self.layer([Plate(outline) for outline in outlines], blur)

    def blobs(self, centers: Sequence[Point], radii: Point, turn: float = 0.0) -> np.ndarray:
        """The sum of equal Gaussian hills. ``radii`` are their standard deviations in pixels of the film."""
        cos, sin = math.cos(turn), math.sin(turn)
        total = np.zeros_like(self.x)
        for x, y in centers:
            dx, dy = self.x - np.float32(x), self.y - np.float32(y)
            u, v = (cos * dx + sin * dy) / radii[0], (cos * dy - sin * dx) / radii[1]
            total += np.exp(-0.5 * (u * u + v * v))
        return enlarged(total)


def enlarged(field: np.ndarray, size: int = HALF) -> np.ndarray:
    """A smaller field, interpolated to [size, size]."""
    image = Image.fromarray(np.ascontiguousarray(field, dtype=np.float32))
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))


def clouds(rng: np.random.Generator, cells: int) -> np.ndarray:
    """Smooth noise of zero mean with ``cells`` bumps per side: [HALF, HALF]."""
    image = Image.fromarray(rng.standard_normal((cells, cells), dtype=np.float32))
    return np.asarray(image.resize((HALF, HALF), Image.Resampling.BICUBIC))


def _soften(image: Image.Image, blur: float) -> np.ndarray:
    """Blur by a box with the spread of a Gaussian of that radius, and scale to 0..1."""
    radius = max(0.0, (math.sqrt(12) * blur - 1) / 2)
    return np.asarray(image.filter(ImageFilter.BoxBlur(radius)), dtype=np.float32) * np.float32(1 / 255)

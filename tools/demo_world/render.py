"""Drawing of a study: from its facts to a 448 x 448 grayscale chest X-ray."""

from __future__ import annotations

import numpy as np

from tools.demo_world import anatomy, pathology
from tools.demo_world.anatomy import Body
from tools.demo_world.canvas import (
    CANVAS_SIZE,
    DRAWING_STYLES,
    HALF,
    USUAL_STYLE,
    Canvas,
    DrawingStyle,
    Plate,
    Stroke,
    enlarged,
)
from tools.demo_world.facts import SIDES, Study

_OPACITIES = {
    "consolidation": pathology.consolidation,
    "nodule": pathology.nodule,
    "atelectasis": pathology.atelectasis,
    "pulmonary edema": pathology.edema,
}
_DEVICES = {"endotracheal tube": pathology.endotracheal_tube, "pacemaker": pathology.pacemaker}
_BODY_STREAM, _FILM_STREAM, _FINDING_STREAM = 101, 102, 103


def draw_study(study: Study, seed: int, style: DrawingStyle = DRAWING_STYLES[USUAL_STYLE]) -> np.ndarray:
    """The study's film as uint8 [448, 448]. Equal arguments give equal bytes. The body depends on the patient alone,
    and each finding has its own random stream. So two studies that differ in one fact differ only at its place."""
    body = Body.sample(np.random.default_rng([seed, _BODY_STREAM, study.patient]), style)
    film = np.random.default_rng([seed, _FILM_STREAM, study.index])
    canvas = Canvas(
        shift=(film.uniform(*style.shift_x), film.uniform(*style.shift_y)),
        scale=film.uniform(*style.scale),
        turn=film.normal(0, style.turn),
    )
    density = _density(canvas, body, study, seed, film, style)
    return _expose(density, film, style)


def _rng(study: Study, seed: int, number: int) -> np.random.Generator:
    return np.random.default_rng([seed, _FINDING_STREAM, study.index, number])


def _density(
    canvas: Canvas, body: Body, study: Study, seed: int, film: np.random.Generator, style: DrawingStyle
) -> np.ndarray:
    """Film density [SIZE, SIZE], 0 black to 1 white, before exposure: soft layers, then crisp ones over them."""
    heart = study.find("cardiomegaly")
    cardiac = canvas.fill(body.heart_outline(heart.severity if heart else None, _wide(study)), blur=2.5)
    middle = anatomy.mediastinum(canvas, body)
    air = _aerated(canvas, body, study) * (1 - 0.96 * cardiac) * (1 - 0.97 * middle)
    marked, outline = _marked(canvas, body, study, air)

    soft = anatomy.flesh(canvas, body, film) + 0.08 * cardiac + 0.05 * middle
    soft -= 0.14 * anatomy.airway(canvas, body)
    soft += air * (style.lung - soft + anatomy.lung_texture(film)) - 0.09 * (air - marked)
    soft += marked * anatomy.hila(canvas, body) + anatomy.bones(canvas, body)
    if study.sex == "f":
        soft += 0.11 * anatomy.breasts(canvas, body)
    if study.view == "ap":
        soft += 0.13 * anatomy.scapulae(canvas, body)
    # Opacities show fully over lung and faintly over the shadows in front of and behind it.
    soft += (0.25 + 0.75 * air) * _opacities(canvas, body, study, seed)
    soft = soft * anatomy.body_mask(canvas, body, style) + _uneven_beam(film, style.beam)

    edema = study.find("pulmonary edema")
    congestion = 0.0 if edema is None else (1.0 if edema.severity == "severe" else 0.5)
    crisp = enlarged(marked, CANVAS_SIZE) * anatomy.vessels(canvas, body, congestion)
    crisp += enlarged(soft, CANVAS_SIZE)
    if outline is not None:
        crisp += 0.30 * enlarged(air, CANVAS_SIZE) * pathology.pleural_line(canvas, outline)
    metal = _devices(body, study, seed)
    if metal:
        crisp += 0.46 * canvas.layer(metal, blur=0.8, crisp=True)
    anatomy.stamp_marker(crisp, study.view, film, style)
    return crisp


def _devices(body: Body, study: Study, seed: int) -> list[Stroke | Plate]:
    """The shapes of all devices."""
    shapes: list[Stroke | Plate] = []
    for number, (name, draw) in enumerate(_DEVICES.items()):
        if name in study.devices:
            shapes += draw(body, _rng(study, seed, len(_OPACITIES) + number))
    return shapes


def _opacities(canvas: Canvas, body: Body, study: Study, seed: int) -> np.ndarray:
    """Density added by the findings that brighten the lung."""
    total = np.zeros((HALF, HALF), dtype=np.float32)
    for number, (kind, draw) in enumerate(_OPACITIES.items()):
        finding = study.find(kind)
        if finding is not None:
            total += draw(canvas, body, finding, _rng(study, seed, number))
    return total


def _wide(study: Study) -> float:
    return 1.04 if study.view == "ap" else 0.98


def _aerated(canvas: Canvas, body: Body, study: Study) -> np.ndarray:
    """Mask of air in the chest: both lungs without any effusion. Atelectasis lifts the dome of its side."""
    effusion, band = study.find("pleural effusion"), study.find("atelectasis")
    lifts = {side: 10.0 if band and band.side == side else 0.0 for side in SIDES}
    lungs = canvas.fill(*(body.lung(side, lift) for side, lift in lifts.items()), blur=2.2)
    return lungs if effusion is None else lungs * (1 - pathology.fluid(canvas, body, effusion))


def _marked(canvas: Canvas, body: Body, study: Study, air: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """The part of the air that holds lung markings, and, beside a pneumothorax, the outline of the lung."""
    finding = study.find("pneumothorax")
    if finding is None:
        return air, None
    outline = pathology.collapsed_lung(body, finding)
    other = "right" if finding.side == "left" else "left"
    return air * canvas.fill(outline, body.lung(other), blur=0.8), outline


def _uneven_beam(film: np.random.Generator, slope: float) -> np.ndarray:
    """Signed density [HALF, HALF] of a beam that is stronger towards one corner."""
    axis = np.linspace(-1, 1, HALF, dtype=np.float32)
    across, down = (np.float32(film.uniform(-slope, slope)) for _ in range(2))
    return across * axis[None, :] + down * axis[:, None]


def _expose(density: np.ndarray, film: np.random.Generator, style: DrawingStyle) -> np.ndarray:
    """Apply resolution, tone curve, exposure, contrast and grain. The result is uint8."""
    if style.resolution != CANVAS_SIZE:
        density = enlarged(enlarged(density, style.resolution), CANVAS_SIZE)
    if style.gamma != 1:
        density = np.clip(density, 0, None) ** np.float32(style.gamma)
    exposure, contrast = film.uniform(*style.exposure), film.uniform(*style.contrast)
    grain = np.frombuffer(film.bytes(CANVAS_SIZE * CANVAS_SIZE), dtype=np.uint8).reshape(CANVAS_SIZE, CANVAS_SIZE)
    levels = density * np.float32(255 * contrast)
    levels += np.float32(255 * (0.45 * (1 - contrast) + exposure))
    levels += grain * np.float32(style.grain / 255)
    return np.clip(levels, 0, 255, out=levels).astype(np.uint8)

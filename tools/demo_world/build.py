"""The demo world and its policy on disk.

The world's folder holds images/<image_id>.png, annotations/train.json (for SFT), annotations/valid.json (the pool for
GRPO), annotations/eval/test_{basic,compare,region}_vqa.json and manifest.json. The policy's folder holds a checkpoint
and demo_policy.json.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import shutil
from collections.abc import Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy
import PIL
from PIL import Image
from tqdm import tqdm

from swift.utils.errors import UserError
from swift.utils.files import read_json, try_read_json, write_json
from swift.utils.logger import get_logger
from tools.demo_world.canvas import DRAWING_STYLES, USUAL_STYLE, DrawingStyle
from tools.demo_world.dataset import World, WorldConfig, build_world
from tools.demo_world.facts import Study
from tools.demo_world.policy import write_policy
from tools.demo_world.pretraining import pretrain
from tools.demo_world.render import draw_study
from tools.demo_world.reports import report_of

KIND, VERSION = "demo world", 7
FILM_SIZE = (448, 512)  # portrait, as chest films are: tiling pads it, so the demo exercises masked patches
_RUN_LENGTH = 3  # zlib's Z_RLE: on film grain as small as a full search and much faster

logger = get_logger()


def write_image(study: Study, folder: Path, seed: int, style: DrawingStyle = DRAWING_STYLES[USUAL_STYLE]) -> str:
    """Draw one study into ``folder`` and return the SHA-256 of its file."""
    path = folder / f"{study.image_id}.png"
    film = Image.fromarray(draw_study(study, seed, style)).resize(FILM_SIZE, Image.Resampling.BICUBIC)
    film.save(path, compress_level=1, compress_type=_RUN_LENGTH)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_images(
    studies: Sequence[Study], folder: Path, seed: int, workers: int, style: DrawingStyle = DRAWING_STYLES[USUAL_STYLE]
) -> list[str]:
    """Draw all studies with several processes. Returns the SHA-256 of each file, in the order of the studies."""
    folder.mkdir(parents=True)
    draw = partial(write_image, folder=folder, seed=seed, style=style)
    progress = partial(tqdm, total=len(studies), desc="drawing", unit="image")
    if workers <= 1:
        return list(progress(map(draw, studies)))
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        return list(progress(pool.imap(draw, studies, chunksize=4)))


def make_demo(output: Path, config: WorldConfig, workers: int) -> dict[str, Any]:
    """Write the world to ``output`` and return its manifest. A world of the same configuration is left as it is.

    Raises UserError if the folder exists and does not hold a demo world.
    """
    output = output.absolute()
    existing = _existing_manifest(output)
    identity = {
        "kind": KIND,
        "version": VERSION,
        "arguments": config.as_dict(),
        "numpy": numpy.__version__,
        "pillow": PIL.__version__,
    }
    if existing is not None and all(existing.get(key) == value for key, value in identity.items()):
        logger.info("%s is up to date (seed %d): nothing to do", output, config.seed)
        return existing
    temporary = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        world = build_world(config)
        digests = write_images(world.studies, temporary / "images", config.seed, workers, DRAWING_STYLES[config.style])
        for name, records in world.files.items():
            path = write_json(temporary / "annotations" / name, records, indent=1)
            digests.append(hashlib.sha256(path.read_bytes()).hexdigest())
        digest = hashlib.sha256("".join(digests).encode()).hexdigest()
        manifest = {
            **identity,
            "counts": _counts(world),
            "sha256": digest,
        }
        write_json(temporary / "manifest.json", manifest)
        if output.exists():
            shutil.rmtree(output)
        os.replace(temporary, output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    logger.info("wrote %s: %s", output, ", ".join(f"{name} {count}" for name, count in manifest["counts"].items()))
    return manifest


def make_policy(folder: Path, world: Path, config: WorldConfig) -> None:
    """Write a policy for the world in ``world``, pretrained on the films of its training patients. The same policy is
    left as it is."""
    identity_file = folder / "demo_policy.json"
    manifest = read_json(world / "manifest.json", "make the world again")
    identity = {"kind": "demo policy", "version": VERSION, "world": manifest["sha256"]}
    if try_read_json(identity_file) == identity:
        logger.info("%s is up to date: nothing to do", folder)
        return
    identity_file.unlink(missing_ok=True)  # not valid until all is written
    records = read_json(world / "annotations" / "train.json", "make the world again", list)
    films = {name for record in records for name in record["images"]}
    studies = [study for study in build_world(config).studies if f"{study.image_id}.png" in films]
    rng = numpy.random.default_rng([config.seed, 0])
    lines = (" ".join(line) for study in studies for line in report_of(study, rng))
    texts = (turn["content"] for record in records for turn in record["messages"])
    write_policy(folder, chain(texts, lines), config.seed)
    pretrain(folder, studies, world / "images", config.seed)
    write_json(identity_file, identity)


def _existing_manifest(output: Path) -> dict[str, Any] | None:
    """The manifest of an earlier world, or None if the folder is empty or does not exist."""
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return None
    manifest = try_read_json(output / "manifest.json")
    if manifest is None or manifest.get("kind") != KIND:
        raise UserError(
            f"--output {output}: it exists and has no readable manifest.json of a demo world; name a new folder, "
            "nothing was changed"
        )
    return manifest


def _counts(world: World) -> dict[str, int]:
    patients = len({study.subject_id for study in world.studies})
    return {"patients": patients, "images": len(world.studies)} | {n: len(items) for n, items in world.files.items()}

"""Make the demo world: drawn chest X-rays with known findings, and questions about them in the real schema.

    python -m tools.make_demo --output data/demo            # about half a minute on two cores
    python -m tools.make_demo --sheet docs/images/demo_world.png

The folder holds images/<image_id>.png, annotations/train.json (for SFT), annotations/valid.json (the pool for GRPO),
annotations/eval/test_{basic,compare,region}_vqa.json and manifest.json. A folder whose manifest matches the
arguments is left as it is. The same arguments give the same bytes, whatever the number of workers.
"""

from __future__ import annotations

import argparse
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

from swift.utils.errors import UserError, reports_user_errors
from swift.utils.files import read_json, try_read_json, write_json
from swift.utils.logger import get_logger
from tools.demo_world.dataset import World, WorldConfig, build_world
from tools.demo_world.facts import Study
from tools.demo_world.policy import write_policy
from tools.demo_world.pretraining import pretrain
from tools.demo_world.render import draw_study
from tools.demo_world.reports import report_of
from tools.demo_world.sheet import write_sheet

KIND, VERSION = "demo world", 7
FILM_SIZE = (448, 512)  # portrait, as chest films are: tiling pads it, so the demo exercises masked patches
_RUN_LENGTH = 3  # zlib's Z_RLE: on film grain as small as a full search and much faster

logger = get_logger()


def write_image(study: Study, folder: Path, seed: int) -> str:
    """Draw one study into ``folder`` and return the SHA-256 of its file."""
    path = folder / f"{study.image_id}.png"
    film = Image.fromarray(draw_study(study, seed)).resize(FILM_SIZE, Image.Resampling.BICUBIC)
    film.save(path, compress_level=1, compress_type=_RUN_LENGTH)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_images(studies: Sequence[Study], folder: Path, seed: int, workers: int) -> list[str]:
    """Draw all studies with several processes; the digests of the files in the order of the studies."""
    folder.mkdir(parents=True)
    draw = partial(write_image, folder=folder, seed=seed)
    progress = partial(tqdm, total=len(studies), desc="drawing", unit="image")
    if workers <= 1:
        return list(progress(map(draw, studies)))
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        return list(progress(pool.imap(draw, studies, chunksize=4)))


def make_demo(output: Path, config: WorldConfig, workers: int) -> dict[str, Any]:
    """Write the world to ``output`` unless it is there already, and return its manifest.

    Raises UserError where the folder exists and holds something that this command did not write.
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
        digests = write_images(world.studies, temporary / "images", config.seed, workers)
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
    """Write a policy for the world in ``world``, pretrained on the films of its training patients, unless the folder
    holds it already."""
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
    """The manifest of an earlier run, or None where there is nothing yet."""
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


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Flags of the command."""
    default = WorldConfig()
    parser = argparse.ArgumentParser(
        prog="python -m tools.make_demo", description="Make the demo world.", allow_abbrev=False
    )
    place = parser.add_argument_group("output")
    place.add_argument("--output", type=Path, default=Path("data/demo"), help="folder to write (default: data/demo)")
    place.add_argument("--sheet", type=Path, help="write only a captioned contact sheet of the findings to this PNG")
    place.add_argument("--policy", type=Path, help="also make a policy here, pretrained on reports")
    size = parser.add_argument_group("size")
    size.add_argument("--seed", type=int, default=default.seed, help="seed of everything that is random")
    size.add_argument("--patients", type=int, nargs=3, default=default.patients, metavar=("TRAIN", "VALID", "TEST"),
                      help="patients in each split; some have two studies")  # fmt: skip
    size.add_argument("--questions", type=int, nargs=2, default=default.questions, metavar=("TRAIN", "VALID"),
                      help="questions about each image")  # fmt: skip
    size.add_argument("--pair_questions", type=int, nargs=2, default=default.pair_questions, metavar=("TRAIN", "VALID"),
                      help="comparison questions about each pair of images")  # fmt: skip
    size.add_argument("--eval_questions", type=int, default=default.eval_questions, help="questions in each of 3 files")
    speed = parser.add_argument_group("speed")
    speed.add_argument("--workers", type=int, default=2, help="drawing processes; the result does not depend on it")
    arguments = parser.parse_args(argv)
    counts = (*arguments.patients, *arguments.questions, *arguments.pair_questions, arguments.eval_questions)
    if min(arguments.seed, *counts) < 0:
        raise UserError("--seed and the size flags: a value is negative; give 0 or more")
    return arguments


@reports_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    arguments = parse_arguments(argv)
    if arguments.sheet:
        write_sheet(arguments.sheet, arguments.seed)
        return 0
    config = WorldConfig(
        seed=arguments.seed,
        patients=tuple(arguments.patients),
        questions=tuple(arguments.questions),
        pair_questions=tuple(arguments.pair_questions),
        eval_questions=arguments.eval_questions,
    )
    make_demo(arguments.output, config, arguments.workers)
    if arguments.policy:
        make_policy(arguments.policy, arguments.output, config)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

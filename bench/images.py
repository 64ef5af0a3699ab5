"""Time that an accelerator waits for images, with and without decoding the next step's images in advance.

    python -m bench.images [--steps 8] [--batch 2] [--width 3000] [--height 2500] [--load 1.0] [--device cuda]

One series of steps decodes, tiles and computes in turn. The other announces the images of the next step before it
computes, and finds them ready afterwards. Films are 16-bit PNGs, and each is used once. The computing of a step takes
``--load`` times as long as its images. By default the host sleeps meanwhile, as it does while an accelerator works.
With ``--device cuda`` or ``cpu`` matrices are multiplied, on a CPU in one thread. The last line of the output is a JSON
object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from swift.llm.dataset import Record
from swift.llm.images.dynamic_hd import DynamicHDImageProcessor
from swift.llm.images.source import ImageSource
from swift.llm.phi4_names import IMAGE_TOKEN
from swift.llm.template.phi4 import Phi4Template
from tools.demo_world.policy import train_tokenizer


def write_films(folder: Path, count: int, width: int, height: int) -> list[Record]:
    """Write ``count`` films and return a question about each. A film is a bright oval with noise, in 12 bits of 16."""
    draw = np.random.default_rng(0)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    oval = 3000 * np.exp(-3 * (x**2 + y**2))
    records = []
    for index in range(count):
        values = oval + draw.integers(0, 64, oval.shape)
        Image.fromarray(values.astype(np.uint16)).save(folder / f"{index}.png")
        source = ImageSource.from_path(folder / f"{index}.png")
        records.append(Record((source,), ({"role": "user", "content": "Effusion?"},), None, {}, str(index)))
    return records


def computing(seconds: float, device: str) -> Callable[[], None]:
    """A function that keeps the device busy for about ``seconds``."""
    if device == "idle":
        return lambda: time.sleep(seconds)
    side = 4096 if device == "cuda" else 512
    matrix = torch.randn(side, side, device=device)

    def work(products: int) -> None:
        for _ in range(products):
            matrix @ matrix
        if device == "cuda":
            torch.cuda.synchronize()

    work(20)
    trial = _seconds(lambda: work(20)) / 20
    products = max(1, round(seconds / trial))
    return lambda: work(products)


def in_turn(template: Phi4Template, batches: list[list[Record]], work: Callable[[], None]) -> list[float]:
    """Seconds of each step if every image is decoded when it is needed."""

    def step(batch: list[Record]) -> None:
        for record in batch:
            template.encode_prompt(record)
        work()

    return [_seconds(lambda batch=batch: step(batch)) for batch in batches]


def ahead(template: Phi4Template, batches: list[list[Record]], work: Callable[[], None]) -> list[float]:
    """Seconds of each step if the images of the next step are decoded meanwhile."""

    def step(batch: list[Record], following: list[Record]) -> None:
        template.encode_prompts(batch)
        template.prefetch(following)
        work()

    pairs = zip(batches, [*batches[1:], []], strict=True)
    return [_seconds(lambda pair=pair: step(*pair)) for pair in pairs]


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--steps", type=int, default=8, help="counted steps, after an uncounted one")
    parser.add_argument("--batch", type=int, default=2, help="films per step")
    parser.add_argument("--width", type=int, default=3000, help="width of a film in pixels")
    parser.add_argument("--height", type=int, default=2500, help="height of a film in pixels")
    parser.add_argument(
        "--load", type=float, default=1.0, help="computing time of a step, as a multiple of its decoding time"
    )
    parser.add_argument("--device", default="idle", choices=["idle", "cpu", "cuda"], help="where to compute")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    tokenizer = train_tokenizer(["a"])
    image_token = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)

    def fresh() -> Phi4Template:
        return Phi4Template(tokenizer, DynamicHDImageProcessor(), image_token)

    with tempfile.TemporaryDirectory() as folder:
        records = write_films(Path(folder), (args.steps + 1) * args.batch, args.width, args.height)
        batches = [records[start : start + args.batch] for start in range(0, len(records), args.batch)]
        decoding = statistics.median(in_turn(fresh(), batches, lambda: None)[1:])
        work = computing(decoding * args.load, args.device)
        seconds = {
            "decode_seconds": decoding,
            "compute_seconds": statistics.median(_seconds(work) for _ in range(args.steps)),
            "in_turn_seconds": statistics.median(in_turn(fresh(), batches, work)[1:]),
            "ahead_seconds": statistics.median(ahead(fresh(), batches, work)[1:]),
        }
    waited = seconds["in_turn_seconds"] - seconds["compute_seconds"]
    hidden = (seconds["in_turn_seconds"] - seconds["ahead_seconds"]) / waited
    print(f"torch {torch.__version__}, {args.device}, {os.cpu_count()} cores")
    print(f"{args.batch} films of {args.width} x {args.height} per step; medians of {args.steps} steps\n")
    for name, value in seconds.items():
        print(f"{name.removesuffix('_seconds').replace('_', ' '):12}{value:8.3f} s per step")
    print(json.dumps({**{name: round(value, 4) for name, value in seconds.items()}, "hidden_share": round(hidden, 3)}))


if __name__ == "__main__":
    main()

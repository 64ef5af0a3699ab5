"""How long the sampler takes.

    python -m bench.sample_data                    # 200,000 items, four policies, sizes 1000 to 5000

Items are synthetic, in the evaluation form, of 60 question types with very uneven numbers; the time is of the whole
command, in a process that has imported it: reading, checking, choosing, writing, reading back. The last line of output
is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

from tools import sample_data

SIZES = ("1000", "2000", "5000")


def make_items(count: int, seed: int = 0) -> list[dict]:
    """``count`` questions of a fifth as many patients; type k is twice as frequent as type 2k, about."""
    rng = random.Random(seed)
    types = [f"{shape}_{topic}" for shape in ("verify", "choose", "query") for topic in range(20)]
    weights = [1 / (rank + 1) for rank in range(len(types))]
    return [
        {
            "idx": number,
            "subject_id": 10_000_000 + number // 5,
            "study_id": 50_000_000 + number // 3,
            "image_ids": ["film"],
            "question": f"Is there any abnormality of kind {number % 997} in region {number % 31}?",
            "answer": ["yes"] if number % 2 else ["no"],
            "explanation": f"<think>Finding {number % 997} is seen in region {number % 31}. The lungs are otherwise "
            f"clear and the heart is of normal size.</think><answer>{'yes' if number % 2 else 'no'}</answer>",
            "question_type": kind,
            "is_correct": rng.random() < 0.6,
        }
        for number, kind in enumerate(rng.choices(types, weights, k=count))
    ]


def main(argv: list[str] | None = None) -> int:
    """Print the figures; returns the sampler's status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--items", type=int, default=200_000, help="items in the pool")
    parser.add_argument("--folder", type=Path, help="folder to work in (default: a temporary one)")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        root = arguments.folder or Path(temporary)
        (root / "images").mkdir()
        Image.new("L", (64, 64)).save(root / "images" / "film.png")
        (root / "annotations" / "eval").mkdir(parents=True)
        evaluation = [{"subject_id": number, "question": "?", "answer": []} for number in range(1000)]
        (root / "annotations" / "eval" / "test_basic_vqa.json").write_text(json.dumps(evaluation))
        (root / "pool.json").write_text(json.dumps(make_items(arguments.items)))
        sizes = [size for size in SIZES if int(size) * 5 <= arguments.items]
        command = ["--source", str(root / "pool.json"), "--root", str(root), "--sizes", *sizes]
        started, processor = time.perf_counter(), time.process_time()
        status = sample_data.main([*command, "--policies", "uniform", "hard_uniform", "random", "hard_random"])
        seconds, processor = time.perf_counter() - started, time.process_time() - processor
        megabytes = (root / "pool.json").stat().st_size / 1e6
    print(f"{arguments.items:,} items ({megabytes:.0f} MB), {4 * len(sizes)} samples: {seconds:.2f} s")
    figures = {"items": arguments.items, "samples": 4 * len(sizes)}
    print(json.dumps(figures | {"seconds": round(seconds, 2), "processor_seconds": round(processor, 2)}))
    return status


if __name__ == "__main__":
    sys.exit(main())

"""Time that the sampler takes.

    python -m bench.sample_data                    # 200,000 items, four policies, sizes 1000 to 5000

Items are synthetic, in the evaluation form, of 60 question types with very uneven numbers. The time covers the whole
command without its imports: reading, checking, choosing, writing, reading back. The last line of output is one JSON
object.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path

from PIL import Image

from tools.samples.draw_sets import SampleRequest, draw_sets
from tools.samples.pools import PoolSource

SIZES = (1000, 2000, 5000)
POLICIES = ("uniform", "hard_uniform", "random", "hard_random")


def make_items(count: int, seed: int = 0) -> list[dict]:
    """Make ``count`` questions about a fifth as many patients. Type k is about twice as frequent as type 2k."""
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
    """Print the figures."""
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
        sizes = [size for size in SIZES if size * 5 <= arguments.items]
        request = SampleRequest([PoolSource("source", (root / "pool.json",), Fraction(1))], root, sizes, POLICIES)
        started, processor = time.perf_counter(), time.process_time()
        draw_sets(request)
        seconds, processor = time.perf_counter() - started, time.process_time() - processor
        megabytes = (root / "pool.json").stat().st_size / 1e6
    print(f"{arguments.items:,} items ({megabytes:.0f} MB), {len(POLICIES) * len(sizes)} samples: {seconds:.2f} s")
    figures = {"items": arguments.items, "samples": len(POLICIES) * len(sizes)}
    print(json.dumps(figures | {"seconds": round(seconds, 2), "processor_seconds": round(processor, 2)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())

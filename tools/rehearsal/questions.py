"""Questions about noisy films of a radiograph's size, as training records."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from swift.utils.files import write_json

FILMS = 8
BLOTCH = 48  # pixels of a blotch's side: smooth enough to compress as a radiograph does
QUESTION = "Is there a pleural effusion in the left lung?"
SOLUTION = "<think>There is a small left pleural effusion.</think><answer>yes</answer>"


def write_questions(folder: Path, count: int, size: tuple[int, int], images: int = 1) -> Path:
    """Write ``count`` records with that many ``images`` each, and a few films of ``size`` (width, height in pixels).

    Returns the file of records. The films are in the folder ``images`` beside it.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    names = [f"film{number}.jpg" for number in range(FILMS)]
    for name in names:
        blotches = generator.integers(0, 256, (size[1] // BLOTCH + 1, size[0] // BLOTCH + 1), dtype=np.uint8)
        Image.fromarray(blotches).resize(size, Image.Resampling.BICUBIC).save(folder / "images" / name, quality=90)
    rows = [
        {
            "images": [names[(index + place) % FILMS] for place in range(images)],
            "messages": [{"role": "user", "content": QUESTION}],
            "solution": SOLUTION,
            "idx": index,
            "subject_id": f"p{index}",
            "answer": ["yes"],
        }
        for index in range(count)
    ]
    return write_json(folder / "train.json", rows)

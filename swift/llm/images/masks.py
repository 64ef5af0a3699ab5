"""Images that show nothing, to be seen in the place of others."""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
from PIL import Image

from swift.llm.images.source import ImageSource

BLANK_GRAY = 128  # nearly 0 after normalization
HELD_MASKS = 16  # masks that are kept; one of noise takes a byte per pixel


@lru_cache(maxsize=HELD_MASKS)
def gray_image(width: int, height: int) -> ImageSource:
    """An evenly gray image. Sizes are in pixels."""
    file = io.BytesIO()
    Image.new("L", (width, height), BLANK_GRAY).save(file, "PNG")
    return ImageSource(f"blank {width} x {height}", data=file.getvalue())


@lru_cache(maxsize=HELD_MASKS)
def noise_image(width: int, height: int, seed: int) -> ImageSource:
    """An image of independent, evenly distributed gray values, always the same for one size in pixels and ``seed``."""
    values = np.random.default_rng((seed, width, height)).integers(0, 256, (height, width), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(values).save(file, "BMP")
    return ImageSource(f"noise {width} x {height}", data=file.getvalue())

"""Phi-4-multimodal's dynamic-HD tiling: one radiograph becomes a global view and up to ``dynamic_hd`` square crops.

Let S = ``crop_size``, P = ``patch_size`` and M = ``dynamic_hd``. The grid is ceil(W/S) x ceil(H/S) crops. If that is
more than M, it is the grid of at most M crops nearest to the image's aspect ratio. The image is scaled to fit the grid,
keeping its aspect, and padded right and bottom with white. Patches wholly inside the padding are masked. The global
view is the padded image at S x S.

The model turns the global view into p*p + p tokens (p = S/2P rounded up, one separator per row). One separator follows.
The crops become rows*columns + rows tokens, counting every second patch that is not masked.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from swift.llm.phi4_names import NATIVE_IMAGE_PROCESSOR, STOCK_DYNAMIC_HD
from swift.utils.errors import UserError
from swift.utils.files import read_json, write_json
from swift.utils.lines import one_line

DEFAULT_DYNAMIC_HD = 4
PUBLISHED_CROP, PUBLISHED_PATCH = 448, 14  # pixels
SMALLEST_SIDE = 10  # pixels after scaling
CONFIG_FILE = "preprocessor_config.json"
WHITE = (255, 255, 255)


@dataclass(frozen=True)
class ProcessedImage:
    """One tiled image, as the model takes it."""

    pixel_values: Tensor  # [1 + crops, 3, S, S] float32 in -1..1; the global view, then crops row by row
    size: tuple[int, int]  # (height, width) in pixels of the padded image
    attention_mask: Tensor  # [1 + crops, S/P, S/P] bool, False where a patch is all padding
    num_tokens: int  # image tokens that this image takes in the prompt

    def __post_init__(self):
        views, channels, side, _ = self.pixel_values.shape
        crops = self.size[0] * self.size[1] // side**2
        if (views, channels) != (1 + crops, 3) or len(self.attention_mask) != views:
            raise ValueError(f"pixels {tuple(self.pixel_values.shape)} do not tile an image of {self.size}")

    @property
    def nbytes(self) -> int:
        """Memory of its tensors, bytes."""
        return self.pixel_values.nbytes + self.attention_mask.nbytes

    def to(self, device: torch.device | str) -> ProcessedImage:
        """The same image with its tensors on ``device``."""
        return replace(self, pixel_values=self.pixel_values.to(device), attention_mask=self.attention_mask.to(device))

    @staticmethod
    def collate(images: list[ProcessedImage]) -> dict[str, Tensor]:
        """The model's image arguments (see `collate`)."""
        return collate(images)


@dataclass(frozen=True)
class Tiling:
    """An image's place in its grid of crops. All values but ``columns`` and ``rows`` are in pixels."""

    columns: int
    rows: int
    width: int  # of the scaled image
    height: int
    pad_right: int
    pad_bottom: int


class DynamicHDImageProcessor:
    """Turns images into :class:`ProcessedImage`.

    ``crop_size`` and ``patch_size`` are in pixels. ``dynamic_hd`` is the most crops that an image may take. Raises
    UserError for settings that contradict each other.
    """

    def __init__(
        self, crop_size: int = PUBLISHED_CROP, patch_size: int = PUBLISHED_PATCH, dynamic_hd: int = DEFAULT_DYNAMIC_HD
    ):
        if crop_size < 1 or patch_size < 1 or crop_size % patch_size:
            raise UserError(f"crop_size {crop_size} must be a multiple of patch_size {patch_size}")
        if dynamic_hd < 1:
            raise UserError(f"dynamic_hd {dynamic_hd} must be 1 or more: it is the most crops an image may take")
        self.crop_size, self.patch_size, self.dynamic_hd = crop_size, patch_size, dynamic_hd

    def __call__(self, image: Image.Image) -> ProcessedImage:
        """Tile an RGB image. Raises UserError if it is so narrow that a side scales below 10 pixels."""
        tiling, side = self.tiling(*image.size), self.crop_size
        scaled = image.convert("RGB").resize((tiling.width, tiling.height), Image.Resampling.BILINEAR)
        padded = Image.new("RGB", (tiling.columns * side, tiling.rows * side), WHITE)
        padded.paste(scaled, (0, 0))
        pixels = torch.from_numpy(np.asarray(padded, dtype=np.float32) / 127.5 - 1).permute(2, 0, 1)
        overview = interpolate(pixels[None], size=(side, side), mode="bicubic", align_corners=False)
        crops = _split(pixels, side).reshape(-1, 3, side, side)
        mask = self._mask(tiling)
        return ProcessedImage(
            pixel_values=torch.cat([overview, crops]),
            size=(padded.height, padded.width),
            attention_mask=torch.cat([torch.ones_like(mask[:1]), mask]),
            num_tokens=self._count(tiling),
        )

    def tiling(self, width: int, height: int) -> Tiling:
        """The grid and the scaled size of an image of ``width`` x ``height`` pixels. Raises UserError as above."""
        side = self.crop_size
        columns, rows = math.ceil(width / side), math.ceil(height / side)
        if columns * rows > self.dynamic_hd:
            columns, rows = self._nearest_grid(width, height)
        across, down = columns * side, rows * side
        if across / width < down / height:
            scaled = across, int(height * (across / width))
        else:
            scaled = int(width * (down / height)), down
        if min(scaled) < SMALLEST_SIDE:
            raise UserError(
                f"an image of {width} x {height} pixels is too narrow: a side would scale to {min(scaled)} pixels, "
                f"under {SMALLEST_SIDE}; crop it"
            )
        return Tiling(columns, rows, *scaled, pad_right=across - scaled[0], pad_bottom=down - scaled[1])

    def count_tokens(self, width: int, height: int) -> int:
        """Tokens that an image of ``width`` x ``height`` pixels takes, without looking at its pixels."""
        return self._count(self.tiling(width, height))

    def _nearest_grid(self, width: int, height: int) -> tuple[int, int]:
        grids = [
            (i, j)
            for i in range(1, self.dynamic_hd + 1)
            for j in range(1, self.dynamic_hd + 1)
            if i * j <= self.dynamic_hd
        ]
        best, nearest = (1, 1), math.inf
        for i, j in sorted(grids, key=lambda grid: grid[0] * grid[1]):
            distance = abs(width / height - i / j)
            large = width * height > 0.5 * self.crop_size**2 * i * j
            if distance < nearest or (distance == nearest and large):
                best, nearest = (i, j), distance
        return best

    def _mask(self, tiling: Tiling) -> Tensor:
        patches = self.crop_size // self.patch_size
        mask = torch.ones(1, tiling.rows * patches, tiling.columns * patches, dtype=torch.bool)
        mask[:, mask.shape[1] - tiling.pad_bottom // self.patch_size :] = False
        mask[:, :, mask.shape[2] - tiling.pad_right // self.patch_size :] = False
        return _split(mask, patches).reshape(-1, patches, patches)

    def _count(self, tiling: Tiling) -> int:
        pooled = math.ceil(self.crop_size / self.patch_size / 2)
        mask = self._mask(tiling)[:, ::2, ::2].reshape(tiling.rows, tiling.columns, pooled, pooled)
        rows, columns = int(mask[:, 0, :, 0].sum()), int(mask[0, :, 0].sum())
        return pooled * pooled + pooled + 1 + rows * columns + rows

    @classmethod
    def from_config(cls, folder: str | Path, dynamic_hd: int | None = None) -> DynamicHDImageProcessor:
        """The processor of a checkpoint folder, from ``preprocessor_config.json`` in native or remote-code spelling.
        Values that the file leaves out, or all if there is no file, are the published ones.

        ``dynamic_hd`` overrides the file's value. An untouched 36 of Microsoft's counts as not chosen and becomes 4, as
        in the published evaluation. A 36 that :meth:`save` wrote stays 36. Raises UserError for a damaged file.
        """
        path = Path(folder) / CONFIG_FILE
        stated = read_json(path, "fix or remove the file") if path.exists() else {}
        try:
            stated = stated.get("image_processor", stated)
            size = stated.get("crop_size") or stated.get("size") or PUBLISHED_CROP
            patch = stated.get("patch_size") or PUBLISHED_PATCH
            if dynamic_hd is None:
                dynamic_hd = stated.get("dynamic_hd") or DEFAULT_DYNAMIC_HD
                if dynamic_hd == STOCK_DYNAMIC_HD and not stated.get("dynamic_hd_chosen"):
                    dynamic_hd = DEFAULT_DYNAMIC_HD
            return cls(_side(size), _side(patch), int(dynamic_hd))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{path}: {one_line(error)}; fix or remove the file") from error

    def save(self, folder: str | Path) -> Path:
        """Write ``preprocessor_config.json`` with the keys that transformers' own processor reads."""
        return write_json(
            Path(folder) / CONFIG_FILE,
            {
                "image_processor_type": NATIVE_IMAGE_PROCESSOR,
                "size": {"height": self.crop_size, "width": self.crop_size},
                "patch_size": self.patch_size,
                "dynamic_hd": self.dynamic_hd,
                "dynamic_hd_chosen": True,
            },
        )


def collate(images: list[ProcessedImage]) -> dict[str, Tensor]:
    """Stack n images under the model's names: ``image_pixel_values`` [n, 1 + max crops, 3, S, S], ``image_sizes``
    [n, 2], ``image_attention_mask`` [n, 1 + max crops, S/P, S/P] bool.

    Crops that only fill up the batch are zeros and unmasked. The model never reads their features, but an empty mask
    would divide by zero in its position code. No images give an empty dict.
    """
    if not images:
        return {}
    views = max(len(image.pixel_values) for image in images)
    pixels = images[0].pixel_values.new_zeros(len(images), views, *images[0].pixel_values.shape[1:])
    mask = images[0].attention_mask.new_ones(len(images), views, *images[0].attention_mask.shape[1:])
    for row, image in enumerate(images):
        pixels[row, : len(image.pixel_values)] = image.pixel_values
        mask[row, : len(image.attention_mask)] = image.attention_mask
    sizes = torch.tensor([image.size for image in images], dtype=torch.long, device=pixels.device)
    return {"image_pixel_values": pixels, "image_sizes": sizes, "image_attention_mask": mask}


def _split(grid: Tensor, side: int) -> Tensor:
    """[C, rows*side, columns*side] -> [rows, columns, C, side, side]."""
    return grid.unfold(1, side, side).unfold(2, side, side).permute(1, 2, 0, 3, 4)


def _side(value: int | dict) -> int:
    return int(value["height"] if isinstance(value, dict) else value)

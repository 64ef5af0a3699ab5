"""The interfaces of image processors and prepared images, so that batches and templates work with any model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor


class Picture(Protocol):
    """A prepared image, as prompts carry it. Each kind of model has its own class."""

    @property
    def nbytes(self) -> int:
        """Memory of its tensors, bytes."""

    def to(self, device: torch.device | str) -> Picture:
        """The same image with its tensors on ``device``."""

    @staticmethod
    def collate(pictures: list[Any]) -> dict[str, Tensor]:
        """The model's image arguments for these images, in their order."""


class ImageProcessor(Protocol):
    """Prepares images for one model."""

    dynamic_hd: int | None  # most crops per image in Phi-4's tiling; None for other models

    def __call__(self, image: Image.Image) -> Picture:
        """Prepare an RGB image. Raises UserError for an image that the model cannot take."""

    def count_tokens(self, width: int, height: int) -> int:
        """Tokens that an image of ``width`` x ``height`` pixels takes in the prompt."""

    def save(self, folder: str | Path) -> Path:
        """Write the processor's files into ``folder``."""

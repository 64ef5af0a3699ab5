"""What every kind of prepared image can do, so that a batch of prompts need not know which model it is for."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor


class Picture(Protocol):
    """An image as a template prepared it; each kind of model has its own class of them."""

    @property
    def nbytes(self) -> int:
        """What its tensors take."""

    def to(self, device: torch.device | str) -> Picture:
        """The same image with its tensors on ``device``."""

    @staticmethod
    def collate(pictures: list[Any]) -> dict[str, Tensor]:
        """The model's image arguments for these images, in their order."""

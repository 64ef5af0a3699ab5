"""Limits of a device, measured, and the work of each stage of a step relative to them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from swift.llm.policy import decoder_layers_of, output_head
from swift.utils.stages import StageWork

ADAMW_BYTES = 28  # per trained entry in float32: gradient read, value and two moments read and written
REPEATS = 5
TRIAL_SIZES = {"cpu": (1 << 26, 1024), "cuda": (1 << 30, 8192)}  # bytes to copy, side of the matrices to multiply


def wait_for(device: torch.device) -> Callable[[], None]:
    """A function that waits until ``device`` has done all its work."""
    return torch.cuda.synchronize if device.type == "cuda" else lambda: None


@dataclass(frozen=True)
class Limits:
    """The fastest that a device was seen to copy memory and to multiply matrices."""

    bandwidth: float  # bytes per second, reads and writes together
    compute: float  # floating-point operations per second

    @classmethod
    def measured(cls, device: torch.device, dtype: torch.dtype) -> Limits:
        """Measure ``device``: the best of a few copies, and of a few products of matrices of type ``dtype``."""
        size, side = TRIAL_SIZES.get(device.type, TRIAL_SIZES["cpu"])
        source = torch.zeros(size, dtype=torch.uint8, device=device)
        target = torch.empty_like(source)
        matrix = torch.ones(side, side, dtype=dtype, device=device)
        copying = _best(lambda: target.copy_(source), device)
        return cls(2 * size / copying, 2 * side**3 / _best(lambda: matrix @ matrix, device))


def _best(work: Callable[[], object], device: torch.device) -> float:
    """The least seconds of a few calls, the first of which does not count."""
    wait, seconds = wait_for(device), []
    for _ in range(1 + REPEATS):
        began = time.perf_counter()
        work()
        wait()
        seconds.append(time.perf_counter() - began)
    return min(seconds[1:])


@dataclass(frozen=True)
class Sizes:
    """Weights of a policy, in entries, by what a pass does with them."""

    decoder: int
    head: int
    trained: int
    itemsize: int  # bytes per entry in a pass

    @classmethod
    def of(cls, model: nn.Module, compute_type: torch.dtype) -> Sizes:
        """Count the weights of ``model``. Towers of images and sound are left out."""
        return cls(
            decoder=sum(parameter.numel() for parameter in decoder_layers_of(model).parameters()),
            head=output_head(model).weight.numel(),
            trained=sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
            itemsize=compute_type.itemsize,
        )

    def operations(self, name: str, stage: StageWork) -> float:
        """Floating-point operations of a stage, attention left out: two per weight and token in a pass. A backward
        pass has those of the gradient of its input, of the logits again, and of the weights that train."""
        forward = 2.0 * (self.decoder * stage.tokens + self.head * stage.head_tokens)
        if name != "backward":
            return forward
        return forward + 2.0 * self.head * stage.head_tokens + 2.0 * self.trained * stage.tokens

    def traffic(self, name: str, stage: StageWork) -> float:
        """Bytes of weights that a stage reads, and for the optimizer of what it reads and writes. Activations, keys and
        values are left out."""
        if name == "optimizer":
            return float(ADAMW_BYTES * self.trained)
        return float(self.itemsize * (self.decoder + self.head) * stage.passes)

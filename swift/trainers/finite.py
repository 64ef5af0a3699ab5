"""Numbers that are not finite are stopped before they do harm: a checkpoint full of NaN ends every later run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from swift.utils.errors import UserError

REMEDY = "lower --learning_rate, and resume from the last checkpoint"


def check_loss(loss: Tensor, step: int, evidence: Callable[[], str] = str, remedy: str = REMEDY) -> None:
    """Raise UserError if the loss of optimizer step ``step`` (from 1) is not finite. ``evidence`` is then called: it
    writes the groups of the step to disk and says where. ``remedy`` ends the message."""
    if not bool(torch.isfinite(loss).all()):
        raise UserError(f"step {step}: the loss is {float(loss.sum())}{evidence()}; {remedy}")


def check_gradient(
    norm: Tensor | float | None, step: int, evidence: Callable[[], str] = str, remedy: str = REMEDY
) -> None:
    """Raise UserError if the gradients of step ``step`` have a norm that is not finite. The step was not made.
    ``evidence`` is as in :func:`check_loss`."""
    if norm is not None and not math.isfinite(float(norm)):
        raise UserError(f"step {step}: the norm of the gradients is {float(norm)}{evidence()}; {remedy}")


def check_weights(state: Mapping[str, Tensor], where: str, remedy: str = REMEDY) -> None:
    """Raise UserError if a tensor of ``state`` holds a value that is not finite. ``where`` begins the message."""
    spoiled = [name for name, value in state.items() if value.is_floating_point() and not bool(value.isfinite().all())]
    if spoiled:
        raise UserError(f"{where}: {len(spoiled)} tensors hold values that are not finite, e.g. {spoiled[0]}; {remedy}")

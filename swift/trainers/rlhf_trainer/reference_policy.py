"""The choice of a reference policy: a snapshot of what trains if that is enough, otherwise a second model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from swift.trainers.reference import Snapshot, same_when_frozen
from swift.utils.errors import UserError
from swift.utils.logger import get_logger

logger = get_logger()


@dataclass(frozen=True)
class ReferencePolicy:
    """The policy that the KL term compares with: either a snapshot of the policy's trainable tensors, or a model."""

    snapshot: Snapshot | None
    model: nn.Module | None

    @contextmanager
    def standing_in(self, policy: nn.Module) -> Iterator[nn.Module]:
        """The model that scores as the reference within the block: ``policy`` with the snapshot's values, or the second
        model."""
        if self.snapshot is None:
            yield self.model
        else:
            with self.snapshot.swapped_into(policy):
                yield policy


def reference_bytes(policy: nn.Module, other: nn.Module | None) -> int:
    """Memory of the reference that :func:`choose_reference` will take, before anything is copied."""
    if other is None or same_when_frozen(policy, other):
        parameters = [parameter for parameter in policy.parameters() if parameter.requires_grad]
        return sum(policy.dtype.itemsize * parameter.numel() for parameter in parameters)
    return sum(parameter.numel() * parameter.element_size() for parameter in other.parameters())


def choose_reference(
    policy: nn.Module, other: nn.Module | None, device: torch.device, dtype: torch.dtype | None = None
) -> ReferencePolicy:
    """Take ``policy`` as it is now for the reference, or ``other`` if it is given.

    A snapshot also stands for an ``other`` that differs from ``policy`` in trainable tensors only. It is kept in
    the type ``dtype``, or in the policy's own.

    Raises:
        UserError: DeepSpeed ZeRO-3 has split the tensors that a snapshot copies.
    """
    if any(hasattr(parameter, "ds_id") for parameter in policy.parameters()):
        raise UserError("--deepspeed zero3 splits the tensors that the reference copies; use zero2, or --beta 0")
    snapshot = Snapshot.of(policy, dtype) if other is None else Snapshot.of_other(policy, other, dtype)
    if snapshot is not None:
        logger.info("reference: a snapshot of the trainable tensors, %.1f MB", snapshot.nbytes() / 1e6)
        return ReferencePolicy(snapshot, None)
    other.requires_grad_(False).eval().to(device)
    size = sum(parameter.numel() * parameter.element_size() for parameter in other.parameters())
    logger.warning("reference: a second model, %.1f MB; it differs in more than the trainable tensors", size / 1e6)
    return ReferencePolicy(None, other)

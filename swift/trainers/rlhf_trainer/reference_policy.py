"""The choice of a reference policy: a snapshot of what trains if that is enough, otherwise a second model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import nn

from swift.engine.attention.choice import attend_by, decoder_attention
from swift.trainers.reference import Snapshot
from swift.trainers.sharding.parameters import is_sharded
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
            attend_by(self.model, decoder_attention(policy))
            yield self.model
        else:
            stand_in = self.snapshot.written_into if is_sharded(policy) else self.snapshot.swapped_into
            with stand_in(policy):
                yield policy

    def divide(self, policy: nn.Module) -> None:
        """Follow a policy that an engine has divided over processes or moved. A second model stays whole in each."""
        if self.snapshot is not None:
            self.snapshot.divide(policy)
        elif is_sharded(policy):
            logger.warning("the reference is a second model and is whole in every process, unlike the policy")

    def nbytes(self) -> int:
        """Size of the snapshot or of the second model in bytes."""
        if self.snapshot is not None:
            return self.snapshot.nbytes()
        return sum(parameter.numel() * parameter.element_size() for parameter in self.model.parameters())


def choose_reference(policy: nn.Module, other: nn.Module | None) -> ReferencePolicy:
    """Take ``policy`` as it is now for the reference, or ``other`` if it is given.

    A snapshot also stands for an ``other`` that differs from ``policy`` in trainable tensors only. A
    second model stays on its device. Both models are whole here: engines divide the policy later.
    """
    snapshot = Snapshot.of(policy) if other is None else Snapshot.of_other(policy, other)
    if snapshot is None:
        other.requires_grad_(False).eval()
    reference = ReferencePolicy(snapshot, other if snapshot is None else None)
    if snapshot is not None:
        logger.info("reference: a snapshot of the trainable tensors, %.1f MB", reference.nbytes() / 1e6)
    else:
        logger.warning(
            "reference: a second model, %.1f MB; it differs in more than the trainable tensors",
            reference.nbytes() / 1e6,
        )
    return reference

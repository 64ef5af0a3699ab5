"""The choice of a reference policy: a snapshot of what trains if that is enough, otherwise a second model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import TrainerCallback

from swift.engine.attention.choice import attend_by, decoder_attention
from swift.trainers.reference import Snapshot
from swift.trainers.sharding.parameters import is_sharded
from swift.utils.errors import UserError
from swift.utils.files import replacing
from swift.utils.logger import get_logger
from swift.utils.plain_pickles import read_plain_pickle

logger = get_logger()

SAVED = "reference.pt"  # in a checkpoint, if the reference moves


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

    def save(self, model: nn.Module, folder: str | Path, *, writes: bool) -> None:
        """Write a snapshot into a checkpoint if this process ``writes``. All processes call it together."""
        values = self.snapshot.whole(model, keep=writes)
        if writes:
            with replacing(Path(folder) / SAVED) as temporary:
                torch.save(values, temporary)

    def load(self, model: nn.Module, folder: str | Path) -> None:
        """Take the snapshot of a checkpoint. Raises UserError if the checkpoint holds none, or another."""
        path = Path(folder) / SAVED
        try:
            values = read_plain_pickle(path, "resume from another checkpoint", mapped=True)
            self.snapshot.load(model, values)
        except (UserError, KeyError, RuntimeError, TypeError, AttributeError) as error:
            raise UserError(
                f"{path}: no reference to resume with --sync_ref_model ({error}); resume from a checkpoint of a run "
                "with this flag"
            ) from error

    def nbytes(self) -> int:
        """Size of the snapshot or of the second model in bytes."""
        if self.snapshot is not None:
            return self.snapshot.nbytes()
        return sum(parameter.numel() * parameter.element_size() for parameter in self.model.parameters())


class SyncReference(TrainerCallback):
    """Moves the reference towards the policy every ``ref_model_sync_steps`` optimizer steps: it becomes
    ``ref_model_mixup_alpha`` times the policy plus the remaining share of itself (TR-DPO, arXiv 2404.09656)."""

    def __init__(self, reference: ReferencePolicy) -> None:
        self.reference = reference

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if state.global_step % args.ref_model_sync_steps == 0:
            self.reference.snapshot.mix(model, args.ref_model_mixup_alpha)


def choose_reference(policy: nn.Module, other: nn.Module | None, *, moves: bool = False) -> ReferencePolicy:
    """Take ``policy`` as it is now for the reference, or ``other`` if it is given.

    A snapshot also stands for an ``other`` that differs from ``policy`` in trainable tensors only. A
    second model stays on its device. Both models are whole here: engines divide the policy later. A reference that
    ``moves`` is kept in float32, because small moves would round to nothing, and must be a snapshot (else UserError).
    """
    snapshot = Snapshot.of(policy) if other is None else Snapshot.of_other(policy, other)
    if moves and snapshot is None:
        raise UserError(
            "--sync_ref_model mixes what trains into the reference, but --ref_model differs from --model in other "
            "tensors too; leave --ref_model or --sync_ref_model out"
        )
    if moves:
        snapshot = Snapshot({name: value.float() for name, value in snapshot.values.items()})
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

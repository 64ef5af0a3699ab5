"""The loss of one micro-batch, and the per-token figures it yields on the way."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from swift.engine.logprobs import LogProbs
from swift.trainers.rlhf_trainer.loss import clipped_surrogate, k3_kl
from swift.trainers.rlhf_trainer.rollout import MicroBatch


@dataclass(frozen=True)
class TokenFigures:
    """Per-token results of a micro-batch, without gradient."""

    logps: Tensor  # [N, C] of the policy that the step updates
    mask: Tensor  # bool [N, C], tokens that count in the loss
    observed: dict[str, Tensor]  # [N, C] by name: clip_ratio, entropy, and kl if there is a reference


def policy_loss(
    scores: LogProbs, batch: MicroBatch, *, epsilon: float, beta: float, epsilon_high: float | None = None
) -> tuple[Tensor, TokenFigures]:
    """Clipped surrogate plus ``beta`` times the KL to the reference, summed over the tokens that count (a scalar).

    ``scores`` are those of the policy, entropy included. Formulas and their sources are in loss.py.
    """
    old_logps = scores.logps.detach() if batch.old_logps is None else batch.old_logps
    token_loss, clipped = clipped_surrogate(scores.logps, old_logps, batch.rollout.advantages, epsilon, epsilon_high)
    observed = {"clip_ratio": clipped.float(), "entropy": scores.entropy}
    if batch.reference_logps is not None:
        kl = k3_kl(scores.logps, batch.reference_logps)
        token_loss = token_loss + beta * kl
        observed["kl"] = kl.detach()
    mask = batch.rollout.loss_mask
    return torch.where(mask, token_loss, 0).sum(), TokenFigures(scores.logps.detach(), mask, observed)

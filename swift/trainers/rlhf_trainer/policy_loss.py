"""The loss of one micro-batch, and the per-token figures it yields on the way."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from swift.engine.logprobs import LogProbs
from swift.engine.long_groups import Passes, sliced_loss
from swift.trainers.rlhf_trainer.loss import clipped_surrogate, k3_kl
from swift.trainers.rlhf_trainer.rollout import MicroBatch


@dataclass(frozen=True)
class LossTerms:
    """The advantages and log-probabilities that the loss of N completions needs beside the policy's scores."""

    advantages: Tensor  # [N]
    mask: Tensor  # bool [N, C], tokens that count in the loss
    reference_logps: Tensor | None  # [N, C]; None when beta is 0
    old_logps: Tensor | None  # [N, C]; None when the policy is its own old policy

    @classmethod
    def of(cls, batch: MicroBatch) -> LossTerms:
        """The terms of all completions of a micro-batch."""
        rollout = batch.rollout
        return cls(rollout.advantages, rollout.loss_mask, batch.reference_logps, batch.old_logps)

    def select(self, rows: slice, width: int) -> LossTerms:
        """The terms of successive completions, up to ``width`` tokens each."""
        values = (self.mask, self.reference_logps, self.old_logps)
        cut = (None if value is None else value[rows, :width] for value in values)
        return LossTerms(self.advantages[rows], *cut)


@dataclass(frozen=True)
class TokenFigures:
    """Per-token results of a micro-batch, without gradient."""

    logps: Tensor  # [N, C] of the policy that the step updates
    mask: Tensor  # bool [N, C], tokens that count in the loss
    observed: dict[str, Tensor]  # [N, C] by name: clip_ratio, entropy, and kl if there is a reference


def policy_loss(
    scores: LogProbs, terms: LossTerms, *, epsilon: float, beta: float, epsilon_high: float | None = None
) -> tuple[Tensor, TokenFigures]:
    """Clipped surrogate plus ``beta`` times the KL to the reference, summed over the tokens that count (a scalar).

    ``scores`` are those of the policy, entropy included. Formulas and their sources are in loss.py.
    """
    old_logps = scores.logps.detach() if terms.old_logps is None else terms.old_logps
    token_loss, clipped = clipped_surrogate(scores.logps, old_logps, terms.advantages, epsilon, epsilon_high)
    observed = {"clip_ratio": clipped.float(), "entropy": scores.entropy}
    if terms.reference_logps is not None:
        kl = k3_kl(scores.logps, terms.reference_logps)
        token_loss = token_loss + beta * kl
        observed["kl"] = kl.detach()
    return torch.where(terms.mask, token_loss, 0).sum(), TokenFigures(scores.logps.detach(), terms.mask, observed)


def sliced_policy_loss(
    model: nn.Module,
    batch: MicroBatch,
    passes: Passes,
    *,
    temperature: float,
    epsilon: float,
    beta: float,
    epsilon_high: float | None = None,
) -> tuple[Tensor, TokenFigures]:
    """The same loss and figures of the groups of a micro-batch, computed in sections and slices (long_groups.py)."""
    terms, rollout = LossTerms.of(batch), batch.rollout
    weights = {"epsilon": epsilon, "beta": beta, "epsilon_high": epsilon_high}

    def of_slice(rows: slice, scores: LogProbs) -> Tensor:
        return policy_loss(scores, terms.select(rows, scores.logps.shape[1]), **weights)[0]

    total, scores = sliced_loss(
        model, rollout.prompts, rollout.completions, passes, of_slice, temperature=temperature, with_entropy=True
    )
    return total, policy_loss(scores, terms, **weights)[1]

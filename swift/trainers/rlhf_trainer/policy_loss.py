"""The loss of one micro-batch, and the per-token figures it yields on the way."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from swift.engine.logprobs import LogProbs
from swift.engine.long_groups import Passes, sliced_loss
from swift.llm.estimator_flags import EstimatorFlags
from swift.trainers.rlhf_trainer.loss import (
    bounded_exp,
    cispo_loss,
    clipped_surrogate,
    completion_means,
    k3_kl,
    masked_sum,
    sapo_loss,
)
from swift.trainers.rlhf_trainer.micro_batch import LossWeights, MicroBatch, PreferenceTerms, of_rows


@dataclass(frozen=True)
class LossTerms:
    """The advantages and log-probabilities that the loss of N completions needs beside the policy's scores."""

    advantages: Tensor  # [N]
    tokens: Tensor  # bool [N, C], all tokens of completions
    mask: Tensor  # bool [N, C], tokens that count in the policy loss
    reference_logps: Tensor | None  # [N, C]; None when there is no KL term
    old_logps: Tensor | None  # [N, C]; None when the policy is its own old policy
    weights: LossWeights
    preferences: PreferenceTerms | None

    @classmethod
    def of(cls, batch: MicroBatch) -> LossTerms:
        """The terms of all completions of a micro-batch."""
        rollout = batch.rollout
        return cls(
            rollout.advantages,
            rollout.completions.mask,
            rollout.loss_mask,
            batch.reference_logps,
            batch.old_logps,
            batch.weights,
            batch.preferences,
        )

    def select(self, rows: slice, width: int) -> LossTerms:
        """The terms of successive completions, up to ``width`` tokens each."""
        values = (self.tokens, self.mask, self.reference_logps, self.old_logps)
        own = (of_rows(value, rows, width) for value in values)
        preferences = None if self.preferences is None else self.preferences.select(rows)
        return LossTerms(self.advantages[rows], *own, self.weights.select(rows, width), preferences)


@dataclass(frozen=True)
class TokenFigures:
    """Per-token results of a micro-batch, without gradient."""

    logps: Tensor  # [N, C] of the policy that the step updates
    mask: Tensor  # bool [N, C], tokens that count in the loss
    observed: dict[str, Tensor]  # [N, C], or [N, 1] for a figure of whole completions, by name


@dataclass(frozen=True)
class PolicyLoss:
    """The loss that the flags of a run choose. Formulas and their sources are in loss.py."""

    loss_type: str = "dapo"
    epsilon: float = 0.2
    epsilon_high: float | None = None
    delta: float | None = None
    of_sequences: bool = False  # one probability ratio per completion
    beta: float = 0.0  # weight of the KL term, 0 if the KL is taken off the rewards

    @classmethod
    def of(cls, args: EstimatorFlags) -> PolicyLoss:
        """The loss of a run with these arguments."""
        return cls(
            args.loss_type,
            args.epsilon,
            args.epsilon_high,
            args.delta,
            args.importance_sampling_level == "sequence",
            0.0 if args.kl_in_reward else args.beta,
        )

    def __call__(self, scores: LogProbs, terms: LossTerms) -> tuple[Tensor, TokenFigures]:
        """The sum of the policy term plus ``beta`` times the KL to the reference over the tokens that count, and of the
        loss of preferences (a scalar). ``scores`` are those of the policy, entropy included.

        The policy term of a token depends on the scores of its own completion alone.
        """
        old_logps = scores.logps.detach() if terms.old_logps is None else terms.old_logps
        token_loss, observed = self._policy_term(scores.logps, old_logps, terms)
        observed["entropy"] = scores.entropy
        token_loss = terms.weights.times(token_loss)
        if terms.weights.tokens is not None:
            observed["masked_tokens"] = (terms.weights.tokens == 0).float()
        if terms.reference_logps is not None:
            kl = k3_kl(scores.logps, terms.reference_logps)
            observed["kl"] = kl.detach()
            if self.beta:
                token_loss = token_loss + self.beta * kl
        total = masked_sum(token_loss, terms.mask, self.loss_type)
        if terms.preferences is not None:
            total = total + terms.preferences.loss(scores.logps, terms.tokens)
        return total, TokenFigures(scores.logps.detach(), terms.mask, observed)

    def _policy_term(self, logps: Tensor, old_logps: Tensor, terms: LossTerms) -> tuple[Tensor, dict[str, Tensor]]:
        """The policy term of tokens [N, C], or of completions [N, 1], and the figures that belong to it."""
        compared = (logps, old_logps)
        if self.of_sequences:
            compared = tuple(completion_means(values, terms.mask) for values in compared)
        if self.loss_type == "sapo":
            return sapo_loss(bounded_exp(compared[0] - compared[1]), terms.advantages), {}
        if self.loss_type == "cispo":
            largest = self.epsilon if self.epsilon_high is None else self.epsilon_high
            loss, cut = cispo_loss(logps, bounded_exp(compared[0] - compared[1]), terms.advantages, largest)
            return loss, {"cispo_clip_ratio": cut.float()}
        loss, clipped = clipped_surrogate(*compared, terms.advantages, self.epsilon, self.epsilon_high, self.delta)
        falls = terms.advantages[:, None] < 0
        return loss, {
            "clip_ratio": clipped.float(),
            "clip_ratio/low_mean": (clipped & falls).float(),
            "clip_ratio/high_mean": (clipped & ~falls).float(),
        }


def sliced_policy_loss(
    model: nn.Module, batch: MicroBatch, passes: Passes, loss: PolicyLoss, temperature: float
) -> tuple[Tensor, TokenFigures]:
    """The same loss and figures of the groups of a micro-batch, computed in sections and slices (long_groups.py)."""
    terms, rollout = LossTerms.of(batch), batch.rollout

    def of_slice(rows: slice, scores: LogProbs) -> Tensor:
        return loss(scores, terms.select(rows, scores.logps.shape[1]))[0]

    total, scores = sliced_loss(
        model, rollout.prompts, rollout.completions, passes, of_slice, temperature=temperature, with_entropy=True
    )
    return total, loss(scores, terms)[1]

"""Micro-batches: rollouts with all that the loss compares and weighs them with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from swift.engine.batch import PromptBatch
from swift.engine.divergence import completion_divergences
from swift.engine.logprobs import LogProbs, completion_logprobs
from swift.llm.arguments import RLHFArguments
from swift.trainers.rlhf_trainer.advantages import AllSum, Estimator
from swift.trainers.rlhf_trainer.reference_policy import ReferencePolicy
from swift.trainers.rlhf_trainer.rollout import Rollout


@dataclass(frozen=True)
class LossWeights:
    """Weights of the policy term of the loss. None stands for 1 everywhere. The KL term has no weights."""

    tokens: Tensor | None = None  # [N, C]
    trajectories: Tensor | None = None  # [N]

    def select(self, rows: slice, width: int) -> LossWeights:
        """The weights of successive completions, up to ``width`` tokens each."""
        return LossWeights(of_rows(self.tokens, rows, width), of_rows(self.trajectories, rows))

    def with_tokens(self, tokens: Tensor) -> LossWeights:
        """These weights, with those of tokens multiplied by ``tokens`` [N, C]."""
        return LossWeights(tokens if self.tokens is None else self.tokens * tokens, self.trajectories)

    def times(self, token_loss: Tensor) -> Tensor:
        """The weighted ``token_loss``, which is [N, C], or [N, 1] if all tokens of a completion have the same."""
        if self.trajectories is not None:
            token_loss = token_loss * self.trajectories[:, None]
        return token_loss if self.tokens is None else token_loss * self.tokens


@dataclass(frozen=True)
class PreferenceTerms:
    """The loss that completions add because one answer is preferred to another. Both are 0 for other completions.

    The slope of a pair depends on both of its answers, so it is computed before the step. Within the step each answer
    stands for itself, in whichever forward pass it is.
    """

    slopes: Tensor  # [N], of the loss by a completion's log-probability
    values: Tensor  # [N], half of the pair's loss for each of its answers

    def select(self, rows: slice) -> PreferenceTerms:
        """The terms of successive completions."""
        return PreferenceTerms(self.slopes[rows], self.values[rows])

    def loss(self, logps: Tensor, mask: Tensor) -> Tensor:
        """The pairs' loss, with the gradient that it has at the policy of the step's beginning. A scalar.

        ``logps`` [N, C] are the policy's, ``mask`` (bool) is True at the tokens of completions.
        """
        linear = (self.slopes * torch.where(mask, logps, 0).sum(dim=1)).sum()
        return self.values.sum() + linear - linear.detach()


@dataclass(frozen=True)
class MicroBatch:
    """A rollout with the log-probabilities that the loss compares the policy's with.

    ``divisor``, ``weights`` and ``preferences`` are known when an optimizer step begins (step_terms.py).
    """

    rollout: Rollout
    reference_logps: Tensor | None  # [N, C]; None when beta is 0
    old_logps: Tensor | None  # [N, C]; None when each rollout is used once: the policy is then its own old policy
    penalty: Tensor | None = None  # [N], taken off the rewards; None when the KL is in the loss
    divisor: Tensor | None = None  # scalar that the sum of token losses is divided by
    weights: LossWeights = LossWeights()
    preferences: PreferenceTerms | None = None
    dependency: Tensor | None = None  # [N, C] nats that tokens owe to the image, NaN without one; None if not measured

    def parts(self, size: int | None) -> list[MicroBatch]:
        """This batch in blocks of ``size`` completions (`Rollout.parts`); None leaves it whole."""
        if size is None or size >= len(self.rollout.texts):
            return [self]
        batches, start = [], 0
        for rollout in self.rollout.parts(size):
            rows, width = slice(start, start + len(rollout.texts)), rollout.completions.ids.shape[1]
            batches.append(
                MicroBatch(
                    rollout,
                    of_rows(self.reference_logps, rows, width),
                    of_rows(self.old_logps, rows, width),
                    of_rows(self.penalty, rows),
                    self.divisor,
                    self.weights.select(rows, width),
                    None if self.preferences is None else self.preferences.select(rows),
                    of_rows(self.dependency, rows, width),
                )
            )
            start = rows.stop
        return batches


def of_rows(value: Tensor | None, rows: slice, width: int | None = None) -> Tensor | None:
    """The ``value`` of successive completions, up to ``width`` tokens each if it has one per token; None stays."""
    if value is None:
        return None
    return value[rows] if width is None else value[rows, :width]


@dataclass(frozen=True)
class TokenScorer:
    """Scores the tokens of rollouts in the rows that the model takes."""

    temperature: float
    packed: bool

    def __call__(self, model: nn.Module, rollout: Rollout, **wanted: bool) -> LogProbs:
        """The log-probabilities under ``model``. ``wanted`` are further results of `completion_logprobs`."""
        rows = {"temperature": self.temperature, "packed": self.packed}
        return completion_logprobs(model, rollout.prompts, rollout.completions, **rows, **wanted)

    def dependency(
        self, model: nn.Module, rollout: Rollout, masked: PromptBatch | None, hidden: Tensor | None
    ) -> Tensor:
        """The visual dependency [N, C] of tokens in nats, NaN for prompts without an image.

        It is the divergence of the distributions at ``hidden`` [T, H] from those after the prompts ``masked``.
        """
        if masked is None:
            return torch.full(rollout.completions.ids.shape, torch.nan, device=rollout.completions.ids.device)
        rows = {"temperature": self.temperature, "packed": self.packed}
        values = completion_divergences(model, masked, rollout.completions, hidden, **rows)
        pictured = torch.tensor([bool(item.prompt.images) for item in rollout.items], device=values.device)
        return values.masked_fill(~pictured.repeat_interleave(rollout.group_size)[:, None], torch.nan)


@torch.no_grad()
def score_for_loss(
    rollout: Rollout,
    policy: nn.Module,
    reference: ReferencePolicy | None,
    args: RLHFArguments,
    score: TokenScorer,
    masked: PromptBatch | None = None,
) -> MicroBatch:
    """Score ``rollout`` under the reference, if there is one, and under the ``policy`` that sampled it, if it will be
    used by more than one optimizer step, the KL is taken off the rewards, or its prompts are also ``masked`` to measure
    visual dependency. ``args`` are those of the run.

    The KL of a completion is the sum of p - q over its tokens, p and q being the log-probabilities of policy and
    reference.
    """
    reference_logps = old_logps = penalty = dependency = None
    if reference is not None:
        with reference.standing_in(policy) as model:
            reference_logps = score(model, rollout).logps
    reused = args.steps_per_rollout * args.num_iterations > 1 or args.kl_in_reward
    own = score(policy, rollout, with_hidden=masked is not None) if reused or masked is not None else None
    if reused:
        old_logps = own.logps
    if args.kl_in_reward:
        penalty = args.beta * (old_logps - reference_logps).sum(dim=1)
    if args.measures_vision:
        dependency = score.dependency(policy, rollout, masked, None if masked is None else own.hidden)
    return MicroBatch(rollout, reference_logps, old_logps, penalty, dependency=dependency)


def with_advantages(
    batches: Sequence[MicroBatch], rewards: Tensor, estimator: Estimator, all_sum: AllSum
) -> list[MicroBatch]:
    """The micro-batches of a rollout with the advantages that ``estimator`` makes of all their ``rewards`` [N, R]."""
    penalties = [batch.penalty for batch in batches if batch.penalty is not None]
    advantages = estimator(rewards, torch.cat(penalties) if penalties else None, all_sum)
    own = advantages.split([len(batch.rollout.texts) for batch in batches])
    return [
        replace(batch, rollout=replace(batch.rollout, advantages=part))
        for batch, part in zip(batches, own, strict=True)
    ]

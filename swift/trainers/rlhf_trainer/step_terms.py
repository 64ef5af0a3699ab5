"""The terms of the loss that depend on a whole optimizer step, computed before its first forward pass.

A step is divided over processes, micro-batches, mini-batches and slices of groups. Its loss is the same however it is
divided, because what belongs to the whole step is known before: the divisors, the threshold of entropy, and the slopes
of preferences.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from swift.engine.logprobs import LogProbs
from swift.llm.arguments import RLHFArguments
from swift.trainers.metrics import Means
from swift.trainers.rlhf_trainer.loss import loss_divisor, preference_slope
from swift.trainers.rlhf_trainer.micro_batch import MicroBatch, PreferenceTerms
from swift.trainers.rlhf_trainer.rollout import Rollout
from swift.trainers.rlhf_trainer.vision.weights import observe_dependency, with_vision_weights


class StepTerms:
    """Completes the micro-batches of an optimizer step.

    Args:
        args: the arguments of the run.
        means: receives the figures of preferences and of visual dependency.
        score: scores a rollout under the policy as it is now, entropy included, without gradient.
        all_sum: sums a tensor over the processes.
        all_values: joins tensors [n] of all processes, whose n may differ, to one.
    """

    def __init__(
        self,
        args: RLHFArguments,
        means: Means,
        score: Callable[[Rollout], LogProbs],
        all_sum: Callable[[Tensor], Tensor],
        all_values: Callable[[Tensor], Tensor],
    ) -> None:
        self.args, self.means = args, means
        self.score, self.all_sum, self.all_values = score, all_sum, all_values

    @torch.no_grad()
    def complete(self, batches: Sequence[MicroBatch]) -> tuple[list[MicroBatch], Tensor]:
        """The micro-batches of a step with their divisors, weights and preferences, and the number of tokens that count
        in all processes. All processes call it together."""
        args, rollouts = self.args, [batch.rollout for batch in batches]
        counts = [
            sum(rollout.loss_mask.sum() for rollout in rollouts),
            sum(len(rollout.texts) for rollout in rollouts),
            len(rollouts),
            sum(0 if rollout.preference is None else int(rollout.preference.any()) for rollout in rollouts),
        ]
        tokens, completions, micro_batches, preferring = self.all_sum(
            torch.stack([torch.as_tensor(count, device=args.device) for count in counts])
        )
        batches = [
            replace(
                batch,
                divisor=loss_divisor(
                    args.loss_type,
                    tokens=tokens,
                    completions=completions,
                    micro_batches=micro_batches,
                    own_tokens=batch.rollout.loss_mask.sum(),
                    length=args.max_completion_length,
                ),
            )
            for batch in batches
        ]
        if batches[0].dependency is not None:
            for batch in batches:
                observe_dependency(self.means, batch.rollout, batch.dependency)
            batches = with_vision_weights(batches, args, self.all_values)
        preferring = args.flat_groups == "dpo" and bool(preferring)
        if args.top_entropy_quantile == 1 and not preferring:
            return batches, tokens
        scores = [self.score(rollout) for rollout in rollouts]
        if args.top_entropy_quantile < 1:
            batches = self._with_uncertain_tokens(batches, scores)
        if preferring:
            groups = completions / rollouts[0].group_size
            batches = [self._with_preferences(*pair, groups) for pair in zip(batches, scores, strict=True)]
        return batches, tokens

    def _with_uncertain_tokens(self, batches: Sequence[MicroBatch], scores: Sequence[LogProbs]) -> list[MicroBatch]:
        """Weigh tokens with 1 if their entropy belongs to the top share of the step, and others with 0."""
        masks = [batch.rollout.loss_mask for batch in batches]
        own = torch.cat([score.entropy[mask] for score, mask in zip(scores, masks, strict=True)])
        values = self.all_values(own)
        if not len(values):
            return list(batches)
        threshold = torch.quantile(values, 1 - self.args.top_entropy_quantile)
        return [
            replace(batch, weights=batch.weights.with_tokens((score.entropy >= threshold).float()))
            for batch, score in zip(batches, scores, strict=True)
        ]

    def _with_preferences(self, batch: MicroBatch, scores: LogProbs, groups: Tensor) -> MicroBatch:
        """Add the loss of the pairs in a micro-batch, which is averaged over all ``groups`` of the step."""
        rollout = batch.rollout
        if rollout.preference is None or not rollout.preference.any():
            return batch
        beta, size = self.args.dpo_beta, rollout.group_size
        margins = preference_margins(
            rollout.preference, scores.logps, batch.reference_logps, rollout.completions.mask, size, beta
        )
        pairs = rollout.preference.view(-1, size).any(dim=1)
        losses = nn.functional.softplus(-margins)
        self.means.add("dpo_loss", float(losses[pairs].sum()), int(pairs.sum()))
        self.means.add("dpo_accuracy", float((margins[pairs] > 0).sum()), int(pairs.sum()))
        scale = batch.divisor / groups
        slopes = -rollout.preference * preference_slope(margins, beta).repeat_interleave(size) * scale
        values = rollout.preference.abs() / 2 * losses.repeat_interleave(size) * scale
        return replace(batch, preferences=PreferenceTerms(slopes, values))


def preference_margins(
    preference: Tensor, logps: Tensor, reference_logps: Tensor, mask: Tensor, group_size: int, beta: float
) -> Tensor:
    """DPO's margin of each group [B], beta ((p+ - q+) - (p- - q-)), 0 for a group without a pair (arXiv 2305.18290).

    ``preference`` [N] is 1 for the preferred and -1 for the other answer of a pair, else 0. ``logps`` p and
    ``reference_logps`` q are [N, C], summed over the True places of ``mask``.
    """
    gains = torch.where(mask, logps - reference_logps, 0).sum(dim=1)
    return beta * (preference * gains).view(-1, group_size).sum(dim=1)

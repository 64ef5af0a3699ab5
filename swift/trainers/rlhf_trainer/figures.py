"""The figures that GRPO logs, observed from rollouts and micro-batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from swift.trainers.metrics import Means
from swift.trainers.rlhf_trainer.loss import combine_rewards
from swift.trainers.rlhf_trainer.policy_loss import TokenFigures
from swift.trainers.rlhf_trainer.rollout import Rollout

ZERO_SPREAD = 1e-6  # rewards of a group with at most this standard deviation are equal up to float32 rounding


def observe_rewards(means: Means, rewards: Tensor, names: Sequence[str], weights: Tensor) -> None:
    """Observe the weighted reward and its parts.

    ``rewards`` are [N, R], NaN if a reward does not apply. ``names`` and ``weights`` are those of the R rewards.
    """
    total = combine_rewards(rewards, weights.to(rewards.device))
    means.add("reward", float(total.sum()), len(total))
    for name, column in zip(names, rewards.T, strict=True):
        means.add(f"rewards/{name}", float(column.nansum()), int((~column.isnan()).sum()))


def observe_rollout(means: Means, rollout: Rollout, names: Sequence[str], weights: Tensor) -> None:
    """Observe rewards, their spread within groups, and the lengths of completions in tokens."""
    lengths = rollout.completions.lengths.float()
    observe_rewards(means, rollout.rewards, names, weights)
    means.add("reward_std", float(rollout.std.sum()), len(rollout.std))
    means.add("completion_length", float(lengths.sum()), len(lengths))
    means.extreme("completion_length_min", float(lengths.min()))
    means.extreme("completion_length_max", float(lengths.max()))
    means.add("truncated", float((~rollout.completions.finished).sum()), len(lengths))
    means.add("zero_spread_groups", float((rollout.std <= ZERO_SPREAD).sum()), len(rollout.std))


def observe_sums(means: Means, figures: Mapping[str, tuple[float, float]]) -> None:
    """Observe figures given as (sum, count), such as the signs of gaming that rewards count."""
    for name, (total, count) in figures.items():
        means.add(name, total, count)


def observe_tokens(means: Means, figures: TokenFigures) -> None:
    """Observe the figures of a micro-batch as means over the tokens that count in the loss."""
    tokens = float(figures.mask.sum())
    for name, value in figures.observed.items():
        means.add(name, float(torch.where(figures.mask, value, 0).sum()), tokens)

"""The figures that GRPO logs, observed from rollouts and micro-batches."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from swift.engine.batch import Completions
from swift.trainers.metrics import Means
from swift.trainers.rlhf_trainer.advantages import AllSum, batch_moments, combine_rewards, group_spread
from swift.trainers.rlhf_trainer.loss import completion_means
from swift.trainers.rlhf_trainer.policy_loss import TokenFigures
from swift.trainers.rlhf_trainer.rollout import Rollout

# Extremes over completions of the share of clipped tokens, by the mean they belong to, and what stands for none.
CLIPPING_EXTREMES = {
    "clip_ratio/low_mean": ("clip_ratio/low_min", math.inf),
    "clip_ratio/high_mean": ("clip_ratio/high_max", -math.inf),
}
ZERO_SPREAD = 1e-6  # rewards of a group with at most this standard deviation are equal up to float32 rounding


def observe_rewards(means: Means, rewards: Tensor, names: Sequence[str], weights: Tensor) -> None:
    """Observe the weighted reward and its parts.

    ``rewards`` are [N, R], NaN if a reward does not apply. ``names`` and ``weights`` are those of the R rewards.
    """
    total = combine_rewards(rewards, weights.to(rewards.device))
    means.add("reward", float(total.sum()), len(total))
    for name, column in zip(names, rewards.T, strict=True):
        means.add(f"rewards/{name}", float(column.nansum()), int((~column.isnan()).sum()))


def observe_answers(
    means: Means, rewards: Tensor, names: Sequence[str], weights: Tensor, completions: Completions, samples: int | None
) -> None:
    """Observe the rewards [N, R] and the lengths of answers to validation prompts, and their spread if there are
    several ``samples`` of each prompt."""
    observe_rewards(means, rewards, names, weights)
    if samples is not None:
        spread = group_spread(combine_rewards(rewards, weights.to(rewards.device)), samples)
        means.add("reward_std", float(spread.sum()), len(spread))
    means.add("completion_length", float(completions.lengths.sum()), len(completions))


def observe_rollout(means: Means, rollout: Rollout, names: Sequence[str], weights: Tensor, all_sum: AllSum) -> None:
    """Observe rewards, their spread within groups and over all completions, and the lengths of completions in tokens.
    All processes call it together."""
    lengths = rollout.completions.lengths.float()
    observe_rewards(means, rollout.rewards, names, weights)
    for name, deviation in zip(names, batch_moments(rollout.rewards, all_sum)[1].tolist(), strict=True):
        means.add(f"rewards/{name}/std", deviation)
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
    """Observe the figures of a micro-batch as means over the tokens that count in the loss, or over the completions
    that have such tokens. Of clipping, also the extremes over completions."""
    mask, counted = figures.mask, figures.mask.any(dim=1)
    for name, value in figures.observed.items():
        per_completion = value.shape[1] == 1 != mask.shape[1]
        places = counted[:, None] if per_completion else mask
        means.add(name, float(torch.where(places, value, 0).sum()), float(places.sum()))
        if name in CLIPPING_EXTREMES:
            extreme, neutral = CLIPPING_EXTREMES[name]
            shares = (value if per_completion else completion_means(value, mask))[counted].flatten().tolist()
            means.extreme(extreme, (min if extreme.endswith("_min") else max)(shares, default=neutral))

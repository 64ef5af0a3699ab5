"""Advantages of sampled completions from their rewards: the estimators of the GRPO family.

The functions are pure. `Estimator` chooses among them by the flags `--advantage_estimator` and `--scale_rewards`. Some
need the mean and the spread over the whole batch of all processes, for which they are given a function that sums a
tensor over the processes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from swift.llm.arguments import RLHFArguments

ADVANTAGE_EPSILON = 1e-4
AllSum = Callable[[Tensor], Tensor]  # the sum of a tensor over all processes


def combine_rewards(rewards: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum [N] of reward parts, from ``rewards`` [N, R] and ``weights`` [R].

    NaN means that a reward does not apply. It adds nothing to the sum.
    """
    return (rewards * weights).nansum(dim=1)


def group_spread(rewards: Tensor, group_size: int) -> Tensor:
    """Standard deviation [B] of rewards [B * G] within each group, with Bessel's correction; 0 for a group of one."""
    groups = rewards.view(-1, group_size)
    return groups.std(dim=1) if group_size > 1 else torch.zeros_like(groups[:, 0])


def group_advantages(rewards: Tensor, group_size: int, scaled: bool = True) -> tuple[Tensor, Tensor]:
    """Advantage of each completion within its group, (r - mean) / (std + 1e-4), std with Bessel's correction.

    Without ``scaled`` it is r - mean, as in Dr. GRPO (arXiv 2503.20783). ``rewards`` are [B * G], with the completions
    of a group adjacent. Returns advantages [B * G] and std [B]. A group of one has std 0 and advantage 0.
    """
    groups, std = rewards.view(-1, group_size), group_spread(rewards, group_size)
    advantages = groups - groups.mean(dim=1, keepdim=True)
    if scaled:
        advantages = advantages / (std[:, None] + ADVANTAGE_EPSILON)
    return advantages.flatten(), std


def leave_one_out(rewards: Tensor, group_size: int) -> Tensor:
    """RLOO's advantage [B * G], r minus the mean of the others in its group (arXiv 2402.14740).

    That is the difference to the group's mean times G / (G - 1). ``rewards`` are [B * G] with G of 2 or more.
    """
    return group_advantages(rewards, group_size, scaled=False)[0] * (group_size / (group_size - 1))


def batch_moments(values: Tensor, all_sum: AllSum) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (Bessel's correction) of each column of ``values`` [N, K] over all processes.

    NaN does not count. A column with fewer than two values has std 0, and one without any has mean 0. Returns two
    tensors [K] of float64.
    """
    values = values.double()
    count = all_sum((~values.isnan()).sum(dim=0))
    mean = all_sum(values.nansum(dim=0)) / count.clamp(min=1)
    squares = all_sum((values - mean).square().nansum(dim=0))
    return mean, (squares / (count - 1).clamp(min=1)).sqrt()


def normalized_parts(rewards: Tensor, weights: Tensor, group_size: int) -> Tensor:
    """GDPO's weighted sum [N] of rewards that are normalized within their group one by one (arXiv 2601.05242).

    ``rewards`` are [N, R] with N = B * G, ``weights`` [R]. Each is (r - mean) / (std + 1e-4) over the completions of
    its group to which it applies, and adds 0 for the others (NaN).
    """
    groups = rewards.view(-1, group_size, rewards.shape[1])
    differences = groups - groups.nanmean(dim=1, keepdim=True)
    count = (~groups.isnan()).sum(dim=1, keepdim=True)
    std = (differences.square().nansum(dim=1, keepdim=True) / (count - 1).clamp(min=1)).sqrt()
    return combine_rewards((differences / (std + ADVANTAGE_EPSILON)).view(rewards.shape), weights)


@dataclass(frozen=True)
class Estimator:
    """Turns the rewards of a rollout into advantages.

    ``kind`` is grpo, rloo or reinforce_plus_plus, and ``scale`` group, batch, none or gdpo (with grpo alone), as in
    docs/algorithms.md. REINFORCE++ is meant as in ms-swift: the difference to the group's mean, divided by the standard
    deviation of these differences over the batch.
    """

    kind: str
    scale: str
    group_size: int
    weights: Tensor  # [R] of the rewards

    @classmethod
    def of(cls, args: RLHFArguments, weights: Tensor) -> Estimator:
        """The estimator of a run with these arguments."""
        return cls(args.advantage_estimator, args.scale_rewards, args.num_generations, weights)

    def __call__(self, rewards: Tensor, penalty: Tensor | None, all_sum: AllSum) -> Tensor:
        """Advantages [N] of completions with ``rewards`` [N, R], from which ``penalty`` [N] is subtracted if there is
        one. All processes call it together."""
        weights = self.weights.to(rewards.device)
        if self.scale == "gdpo":
            summed = normalized_parts(rewards, weights, self.group_size)
            mean, std = batch_moments(summed[:, None], all_sum)
            return ((summed - mean) / (std + ADVANTAGE_EPSILON)).to(summed.dtype)
        total = combine_rewards(rewards, weights)
        total = total if penalty is None else total - penalty
        advantages, std = group_advantages(total, self.group_size, scaled=self.kind != "rloo" and self.scale == "group")
        if self.kind == "rloo":
            advantages = leave_one_out(total, self.group_size)
            if self.scale == "group":
                advantages = advantages / (std.repeat_interleave(self.group_size) + ADVANTAGE_EPSILON)
        if self.scale == "batch":
            measured = advantages if self.kind == "reinforce_plus_plus" else total
            spread = batch_moments(measured[:, None], all_sum)[1]
            advantages = (advantages / (spread + ADVANTAGE_EPSILON)).to(total.dtype)
        return advantages

"""The formulas of GRPO as pure functions of tensors.

Source: Shao et al. 2024, "DeepSeekMath" (arXiv 2402.03300), equations 3 and 4. The KL estimator is k3 of Schulman 2020,
"Approximating KL divergence". Departure from the paper: the loss is averaged over all completion tokens of the global
batch, as in DAPO (arXiv 2503.14476), and not per completion first.
"""

from __future__ import annotations

import torch
from torch import Tensor

ADVANTAGE_EPSILON = 1e-4
LARGEST_EXPONENT = 20.0  # e^20 is 5e8: a policy 20 nats away from where it started is lost anyway


def combine_rewards(rewards: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum [N] of reward parts, from ``rewards`` [N, R] and ``weights`` [R].

    NaN means that a reward does not apply. It adds nothing to the sum.
    """
    return (rewards * weights).nansum(dim=1)


def group_advantages(rewards: Tensor, group_size: int, scaled: bool = True) -> tuple[Tensor, Tensor]:
    """Advantage of each completion within its group, (r - mean) / (std + 1e-4), std with Bessel's correction.

    Without ``scaled`` it is r - mean, as in Dr. GRPO (arXiv 2503.20783). ``rewards`` are [B * G], with the completions
    of a group adjacent. Returns advantages [B * G] and std [B]. A group of one has std 0 and advantage 0.
    """
    groups = rewards.view(-1, group_size)
    std = groups.std(dim=1) if group_size > 1 else torch.zeros_like(groups[:, 0])
    advantages = groups - groups.mean(dim=1, keepdim=True)
    if scaled:
        advantages = advantages / (std[:, None] + ADVANTAGE_EPSILON)
    return advantages.flatten(), std


def bounded_exp(values: Tensor) -> Tensor:
    """The exponential up to ``LARGEST_EXPONENT``, and beyond it the tangent at that point, which goes the same way and
    overflows neither in value nor in gradient. Any shape."""
    bounded = values.clamp(max=LARGEST_EXPONENT)
    return torch.exp(bounded) * (1 + (values - bounded))


def k3_kl(logps: Tensor, reference_logps: Tensor) -> Tensor:
    """Per-token KL(policy || reference) by the k3 estimator exp(q - p) - (q - p) - 1, which is never negative.

    p is the policy's log-probability of the sampled token and q the reference's. Both have the same shape.
    """
    difference = reference_logps - logps
    return bounded_exp(difference) - difference - 1


def clipped_surrogate(
    logps: Tensor, old_logps: Tensor, advantages: Tensor, epsilon: float, epsilon_high: float | None = None
) -> tuple[Tensor, Tensor]:
    """Per-token PPO loss -min(ratio A, clip(ratio, 1 - eps, 1 + eps) A), and a mask of the tokens that were clipped.

    ``epsilon_high`` replaces the upper eps, as in DAPO's "clip higher" (arXiv 2503.14476). ``logps`` and ``old_logps``
    are [N, C], ``advantages`` [N]. Returns loss [N, C] and clipped bool [N, C].
    """
    upper = 1 + (epsilon if epsilon_high is None else epsilon_high)
    ratio = bounded_exp(logps - old_logps)
    advantages = advantages[:, None]
    free, held = ratio * advantages, ratio.clamp(1 - epsilon, upper) * advantages
    return -torch.minimum(free, held), held < free


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of ``values`` over the True places of ``mask`` (bool, same shape), 0 if there are none."""
    return torch.where(mask, values, 0).sum() / mask.sum().clamp(min=1)

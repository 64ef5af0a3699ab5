"""Token losses of the GRPO family and their sums, as pure functions of tensors. Advantages are in advantages.py.

Source: Shao et al. 2024, "DeepSeekMath" (arXiv 2402.03300), equations 3 and 4. The KL estimator is k3 of Schulman 2020,
"Approximating KL divergence". Departure from the paper: by default the loss is averaged over all completion tokens of
the global batch, as in DAPO (arXiv 2503.14476), and not per completion first. docs/algorithms.md lists the other losses
with their papers.

A loss is a sum over tokens, divided by a number that `loss_divisor` computes for the whole step beforehand. So it does
not matter how a step is divided into forward passes.
"""

from __future__ import annotations

import torch
from torch import Tensor

LARGEST_EXPONENT = 20.0  # e^20 is 5e8: a policy 20 nats away from where it started is lost anyway
SAPO_TEMPERATURES = (1.0, 1.05)  # for positive advantages, and for the others
TOKEN_MEANS = ("dapo", "cispo")  # losses that are averaged over the tokens of the step
COMPLETION_MEANS = ("grpo", "sapo")  # losses that are averaged over each completion first


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


def completion_means(values: Tensor, mask: Tensor) -> Tensor:
    """Mean [N, 1] of ``values`` [N, C] over the True places of each row of ``mask`` (bool), 0 if a row has none.

    The exponential of the difference of two such means is the ratio of sequences in GSPO (arXiv 2507.18071).
    """
    return torch.where(mask, values, 0).sum(dim=1, keepdim=True) / mask.sum(dim=1, keepdim=True).clamp(min=1)


def clipped_surrogate(
    logps: Tensor,
    old_logps: Tensor,
    advantages: Tensor,
    epsilon: float,
    epsilon_high: float | None = None,
    delta: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Per-token PPO loss -min(ratio A, clip(ratio, 1 - eps, 1 + eps) A), and a mask of the tokens that were clipped.

    ``epsilon_high`` replaces the upper eps, as in DAPO's "clip higher" (arXiv 2503.14476). ``delta`` bounds the ratio
    of the first term from above, which limits the loss of tokens with a negative advantage (arXiv 2505.07291).
    ``logps`` and ``old_logps`` are [N, C], or [N, 1] for one ratio per completion. ``advantages`` are [N]. Returns loss
    and clipped (bool) in the shape of ``logps``.
    """
    upper = 1 + (epsilon if epsilon_high is None else epsilon_high)
    ratio = bounded_exp(logps - old_logps)
    advantages = advantages[:, None]
    free = (ratio if delta is None else ratio.clamp(max=delta)) * advantages
    held = ratio.clamp(1 - epsilon, upper) * advantages
    return -torch.minimum(free, held), held < free


def cispo_loss(logps: Tensor, ratio: Tensor, advantages: Tensor, largest: float) -> tuple[Tensor, Tensor]:
    """Per-token loss -min(ratio, largest) A p, and a mask of the good tokens whose ratio was cut (arXiv 2506.13585).

    The cut ratio is a weight without gradient, so that no token loses its gradient. ``logps`` p are [N, C], ``ratio``
    [N, C] or [N, 1], ``advantages`` [N]. Returns loss [N, C] and cut (bool) in the shape of ``ratio``.
    """
    advantages, ratio = advantages[:, None], ratio.detach()
    return -ratio.clamp(max=largest) * advantages * logps, (ratio > largest) & (advantages > 0)


def sapo_loss(ratio: Tensor, advantages: Tensor, temperatures: tuple[float, float] = SAPO_TEMPERATURES) -> Tensor:
    """Per-token loss -A (4 / t) sigmoid(t (ratio - 1)), a soft gate in place of the clip (arXiv 2511.20347).

    t is the first of ``temperatures`` for positive advantages and the second one for others. ``ratio`` is [N, C] or
    [N, 1], ``advantages`` [N]. The loss has the shape of ``ratio``.
    """
    advantages = advantages[:, None]
    positive, other = (torch.full_like(advantages, temperature) for temperature in temperatures)
    temperature = torch.where(advantages > 0, positive, other)
    return -advantages * 4 / temperature * torch.sigmoid(temperature * (ratio - 1))


def preference_slope(margin: Tensor, beta: float) -> Tensor:
    """The slope beta sigmoid(-margin) with which DPO's loss -log sigmoid(margin) falls as the log-probability of the
    chosen answer rises, and rises as that of the rejected one does (arXiv 2305.18290, section 4).

    ``margin`` is beta ((p+ - q+) - (p- - q-)), where p are the policy's log-probabilities of whole answers and q the
    reference's. Any shape.
    """
    return beta * torch.sigmoid(-margin)


def masked_sum(token_loss: Tensor, mask: Tensor, loss_type: str) -> Tensor:
    """Sum of ``token_loss`` [N, C] over the True places of ``mask`` (bool), a scalar. For `COMPLETION_MEANS` it is the
    sum over completions of the mean over their tokens, where a completion without any adds 0."""
    if loss_type in COMPLETION_MEANS:
        return completion_means(token_loss, mask).sum()
    return torch.where(mask, token_loss, 0).sum()


def loss_divisor(
    loss_type: str, *, tokens: Tensor, completions: Tensor, micro_batches: Tensor, own_tokens: Tensor, length: int
) -> Tensor:
    """The number that a micro-batch's `masked_sum` is divided by, so that the sum over all micro-batches and processes
    is the loss of the step. A scalar of at least 1.

    ``tokens`` that count, ``completions`` and ``micro_batches`` are those of the step in all processes. ``own_tokens``
    are the tokens that count in this micro-batch, and ``length`` is the most tokens that a completion may have.

    - dapo, cispo: all tokens.
    - grpo, sapo: all completions.
    - bnpo: the micro-batch's tokens times the number of micro-batches, which makes the mean over micro-batches of their
      token means. This one loss depends on the size of a micro-batch, by its definition.
    - dr_grpo: completions times ``length``, a constant, so that long answers are not favored (arXiv 2503.20783).
    """
    if loss_type in TOKEN_MEANS:
        divisor = tokens
    elif loss_type in COMPLETION_MEANS:
        divisor = completions
    elif loss_type == "bnpo":
        divisor = own_tokens.clamp(min=1) * micro_batches
    else:
        divisor = completions * length
    return divisor.clamp(min=1)

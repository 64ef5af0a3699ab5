"""Weights of trajectories and of tokens by what they owe to the image (VPPO, arXiv 2510.09285).

A token's visual dependency is KL(p || q), where p is the policy's distribution with the image and q the one with the
image masked. Departure from the paper: the largest weight of a trajectory is bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from swift.llm.estimator_flags import EstimatorFlags
from swift.trainers.metrics import Means
from swift.trainers.rlhf_trainer.loss import completion_means
from swift.trainers.rlhf_trainer.micro_batch import MicroBatch
from swift.trainers.rlhf_trainer.rollout import Rollout

SMALLEST_WEIGHT, LARGEST_WEIGHT = 0.9, 2.0  # of trajectories; the first is the paper's
NEGLIGIBLE = 1e-6  # nats; trajectories whose dependencies differ by no more than this weigh alike


def trajectory_weights(dependency: Tensor, of_step: Tensor) -> Tensor:
    """Weights [N] that rise linearly with the mean ``dependency`` [N] of trajectories, and have the mean 1 over the
    trajectories ``of_step`` [n], whose dependencies are not NaN. A trajectory with NaN, which has no image, weighs 1.

    Let x be the dependency scaled to 0..1 over the step. The weight is low + (high - low) x. As in the paper, low is
    `SMALLEST_WEIGHT` and high follows from the mean. If few trajectories stand out, high would exceed
    `LARGEST_WEIGHT`. Then it is `LARGEST_WEIGHT`, and low, which is between `SMALLEST_WEIGHT` and 1, follows.
    """
    values = of_step.double()
    if not len(values) or float(values.max() - values.min()) <= NEGLIGIBLE:
        return torch.ones_like(dependency)
    least, spread = values.min(), values.max() - values.min()
    mean = float(((values - least) / spread).mean())
    low, high = SMALLEST_WEIGHT, SMALLEST_WEIGHT + (1 - SMALLEST_WEIGHT) / mean
    if high > LARGEST_WEIGHT:
        low, high = (1 - LARGEST_WEIGHT * mean) / (1 - mean), LARGEST_WEIGHT
    scaled = ((dependency.double() - least) / spread).clamp(0, 1)
    return torch.where(dependency.isnan(), 1.0, low + (high - low) * scaled).to(dependency.dtype)


def most_dependent(dependency: Tensor, mask: Tensor, share: float) -> Tensor:
    """1 at the ``share`` of the tokens of each completion with the largest ``dependency`` [N, C], else 0, as float32
    [N, C].

    Tokens are the True places of ``mask`` (bool [N, C]). Their number is rounded up, and of equal tokens the earlier
    ones are taken. A completion without an image, whose dependencies are NaN, has 1 everywhere.
    """
    counts = torch.ceil(mask.sum(dim=1, keepdim=True).double() * share - 1e-9)
    order = torch.where(mask, dependency, -torch.inf).sort(dim=1, descending=True, stable=True).indices
    places = torch.arange(mask.shape[1], device=mask.device).expand_as(order)
    ranks = torch.empty_like(order).scatter_(1, order, places)
    without_image = (dependency.isnan() & mask).any(dim=1, keepdim=True)
    return (without_image | ((ranks < counts) & mask)).float()


def with_vision_weights(
    batches: Sequence[MicroBatch], flags: EstimatorFlags, all_values: Callable[[Tensor], Tensor]
) -> list[MicroBatch]:
    """The micro-batches of a step, each with ``dependency``, with the weights that ``flags`` ask for.

    ``all_values`` joins the numbers [n] of all processes, and leaves NaN out. All processes call it together.
    """
    weighted = list(batches)
    if flags.vision_top_share < 1:
        weighted = [
            replace(batch, weights=batch.weights.with_tokens(
                most_dependent(batch.dependency, batch.rollout.completions.mask, flags.vision_top_share)))
            for batch in weighted
        ]  # fmt: skip
    if flags.vision_weights:
        means = [completion_means(batch.dependency, batch.rollout.completions.mask)[:, 0] for batch in batches]
        counted = [mean[batch.rollout.in_loss] for mean, batch in zip(means, batches, strict=True)]
        of_step = all_values(torch.cat(counted))
        weighted = [
            replace(batch, weights=replace(batch.weights, trajectories=trajectory_weights(mean, of_step)))
            for batch, mean in zip(weighted, means, strict=True)
        ]
    return weighted


def observe_dependency(means: Means, rollout: Rollout, dependency: Tensor) -> None:
    """Observe the mean ``dependency`` [N, C] of the tokens that the policy has sampled after an image, in nats."""
    places = rollout.sampled & ~dependency.isnan()
    means.add("vision_dependency", float(torch.where(places, dependency, 0).sum()), float(places.sum()))

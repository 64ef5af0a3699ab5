"""Weights by visual dependency: their formulas against float64 Python, and their division over micro-batches."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from swift.trainers.metrics import Means
from swift.trainers.rlhf_trainer.micro_batch import LossWeights, MicroBatch
from swift.trainers.rlhf_trainer.vision.weights import (
    LARGEST_WEIGHT,
    SMALLEST_WEIGHT,
    most_dependent,
    observe_dependency,
    trajectory_weights,
    with_vision_weights,
)


def slow_weights(values: list[float]) -> list[float]:
    """The paper's weights, and the bounded ones where the paper's would exceed 2."""
    seen = [value for value in values if not math.isnan(value)]
    scaled = [(value - min(seen)) / (max(seen) - min(seen)) for value in values]
    mean = sum(x for x in scaled if not math.isnan(x)) / len(seen)
    low, high = 0.9, 0.9 + 0.1 / mean
    if high > 2:
        low, high = (1 - 2 * mean) / (1 - mean), 2
    return [1.0 if math.isnan(x) else low + (high - low) * x for x in scaled]


def slow_mask(dependency: np.ndarray, length: int, share: float) -> list[float]:
    if math.isnan(dependency[0]):
        return [1.0] * len(dependency)
    best = sorted(range(length), key=lambda place: (-dependency[place], place))
    taken = best[: math.ceil(length * share - 1e-9)]
    return [float(place in taken) for place in range(len(dependency))]


def random_step(seed: int, count: int = 12, width: int = 9) -> SimpleNamespace:
    """Dependencies of a step, sparse as measured ones are. Completion 3 has no image, and completion 5 does not count
    in the loss."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(1, width + 1, count)
    dependency = np.round(generator.exponential(0.1, (count, width)) ** 2, 3)
    dependency[3] = math.nan
    mask = np.arange(width) < lengths[:, None]
    in_loss = np.arange(count) != 5
    return SimpleNamespace(dependency=np.where(mask, dependency, dependency[:, :1] * 0), mask=mask, in_loss=in_loss,
                           lengths=lengths)  # fmt: skip


def batches_of(step: SimpleNamespace, size: int) -> list[MicroBatch]:
    blocks = [slice(start, start + size) for start in range(0, len(step.mask), size)]
    rollouts = [
        SimpleNamespace(
            completions=SimpleNamespace(mask=torch.tensor(step.mask[rows])), in_loss=torch.tensor(step.in_loss[rows])
        )
        for rows in blocks
    ]
    return [
        MicroBatch(rollout, None, None, dependency=torch.tensor(step.dependency[rows], dtype=torch.float32))
        for rollout, rows in zip(rollouts, blocks, strict=True)
    ]


def weigh(batches: list[MicroBatch], **flags: object) -> list[LossWeights]:
    settings = SimpleNamespace(**{"vision_weights": False, "vision_top_share": 1.0, **flags})
    return [batch.weights for batch in with_vision_weights(batches, settings, lambda values: values[~values.isnan()])]


@pytest.mark.parametrize("seed", range(4))
def test_weights_of_trajectories_are_those_of_the_definition(seed):
    """A trajectory that does not count in the loss takes no part in the normalization."""
    step = random_step(seed)
    means = [row[:length].mean() for row, length in zip(step.dependency, step.lengths, strict=True)]
    counting = [value for value, counts in zip(means, step.in_loss, strict=True) if counts]
    weights = weigh(batches_of(step, len(means)), vision_weights=True)[0].trajectories
    assert weights[torch.tensor(step.in_loss)].tolist() == pytest.approx(slow_weights(counting), abs=1e-5)
    assert weights[3] == 1.0


@pytest.mark.parametrize("outlier", [0.5, 3.0, 1000.0])
def test_weights_have_the_mean_1_and_stay_in_their_range(outlier):
    values = torch.cat([torch.rand(31, generator=torch.Generator().manual_seed(0)), torch.tensor([outlier])])
    weights = trajectory_weights(values, values)
    assert float(weights.double().mean()) == pytest.approx(1.0, abs=1e-6)
    assert SMALLEST_WEIGHT - 1e-6 <= float(weights.min()) < float(weights.max()) <= LARGEST_WEIGHT + 1e-6
    assert torch.equal(weights.argsort(), values.argsort())


def test_trajectories_that_look_alike_weigh_alike():
    values = torch.tensor([0.3, 0.3, 0.3 + 1e-7, math.nan])
    assert trajectory_weights(values, values[:3]).tolist() == [1.0] * 4
    assert trajectory_weights(values[3:], values[:0]).tolist() == [1.0]


@pytest.mark.parametrize("share", [0.1, 0.4, 0.5, 1.0])
def test_the_most_dependent_tokens_are_those_of_the_definition(share):
    step = random_step(7)
    mask = most_dependent(torch.tensor(step.dependency), torch.tensor(step.mask), share)
    rows = zip(step.dependency, step.lengths, strict=True)
    assert mask.tolist() == [slow_mask(row, length, share) for row, length in rows]


@pytest.mark.parametrize("size", [1, 4, 6])
def test_micro_batches_change_no_weight(size):
    step, flags = random_step(2), {"vision_weights": True, "vision_top_share": 0.4}
    whole, parts = weigh(batches_of(step, 12), **flags)[0], weigh(batches_of(step, size), **flags)
    assert torch.equal(torch.cat([part.trajectories for part in parts]), whole.trajectories)
    assert torch.equal(torch.cat([part.tokens for part in parts]), whole.tokens)


def test_a_measurement_alone_weighs_nothing():
    assert weigh(batches_of(random_step(0), 12)) == [LossWeights()]


def test_masks_of_tokens_multiply():
    first, second = torch.tensor([[1.0, 1.0, 0.0]]), torch.tensor([[0.0, 1.0, 1.0]])
    weights = LossWeights(trajectories=torch.tensor([2.0])).with_tokens(first).with_tokens(second)
    assert weights.tokens.tolist() == [[0.0, 1.0, 0.0]]
    assert weights.trajectories.tolist() == [2.0]


def test_the_figure_is_the_mean_over_sampled_tokens_after_an_image():
    """(0.5 + 1.5 + 4) / 3. The second completion has no image, and places beyond an end do not count."""
    means, sampled = Means(), torch.tensor([[True, True], [True, True], [True, False]])
    dependency = torch.tensor([[0.5, 1.5], [math.nan, math.nan], [4.0, 0.0]])
    observe_dependency(means, SimpleNamespace(sampled=sampled), dependency)
    assert means.pop(lambda row: row) == {"vision_dependency": 2.0}

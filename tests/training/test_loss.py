"""The formulas of GRPO against float64 written out from the paper, and against numbers worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from swift.trainers.rlhf_trainer.advantages import combine_rewards, group_advantages
from swift.trainers.rlhf_trainer.loss import bounded_exp, clipped_surrogate, k3_kl, masked_sum


def loss_from_the_formula(logps, old, reference, advantages, mask, epsilon, beta):
    """Token by token in float64 Python: mean over tokens of -min(r A, clip(r) A) + beta k3."""
    total = count = 0.0
    for i, j in zip(*np.nonzero(mask), strict=True):
        ratio = math.exp(logps[i, j] - old[i, j])
        held = min(max(ratio, 1 - epsilon), 1 + epsilon)
        difference = reference[i, j] - logps[i, j]
        kl = math.exp(difference) - difference - 1
        total += -min(ratio * advantages[i], held * advantages[i]) + beta * kl
        count += 1
    return total / count


@pytest.mark.parametrize("seed", range(5))
def test_loss_equals_the_formula_in_float64(seed):
    generator = np.random.default_rng(seed)
    logps, old, reference = (-generator.exponential(1, (8, 11)) for _ in range(3))
    old = logps + generator.normal(0, 0.3, logps.shape)
    mask = generator.random((8, 11)) < 0.7
    rewards = generator.normal(size=8)
    expected_advantages = np.concatenate(
        [(group - group.mean()) / (group.std(ddof=1) + 1e-4) for group in rewards.reshape(2, 4)]
    )
    advantages, _ = group_advantages(torch.tensor(rewards, dtype=torch.float32), 4)
    assert np.allclose(advantages.numpy(), expected_advantages, atol=1e-5)
    tensors = [torch.tensor(value, dtype=torch.float32) for value in (logps, old, reference)]
    token_loss, _ = clipped_surrogate(tensors[0], tensors[1], advantages, 0.2)
    token_loss = token_loss + 0.5 * k3_kl(tensors[0], tensors[2])
    loss = masked_sum(token_loss, torch.tensor(mask), "dapo") / mask.sum()
    expected = loss_from_the_formula(logps, old, reference, expected_advantages, mask, 0.2, 0.5)
    assert abs(float(loss) - expected) < 1e-5 * max(1, abs(expected))


def test_advantages_by_hand():
    # group 1: mean 0.5, deviations +-0.5, sum of squares 1 over (4 - 1) -> std 0.57735; group 2 is flat
    advantages, std = group_advantages(torch.tensor([1.0, 0.0, 1.0, 0.0, 2.0, 2.0, 2.0, 2.0]), 4)
    assert torch.allclose(std, torch.tensor([0.57735, 0.0]), atol=1e-5)
    assert torch.allclose(advantages[:4], torch.tensor([1.0, -1.0, 1.0, -1.0]) * 0.5 / 0.57745, atol=1e-4)
    assert torch.equal(advantages[4:], torch.zeros(4))


def test_a_group_of_one_has_no_advantage():
    advantages, std = group_advantages(torch.tensor([3.0, 5.0]), 1)
    assert torch.equal(advantages, torch.zeros(2))
    assert torch.equal(std, torch.zeros(2))


def test_kl_is_zero_for_equal_policies_and_positive_otherwise():
    logps = -torch.rand(3, 5)
    assert torch.equal(k3_kl(logps, logps), torch.zeros(3, 5))
    # q - p = ln 2: exp(ln 2) - ln 2 - 1 = 0.306853
    assert torch.allclose(k3_kl(torch.tensor([-1.0]), torch.tensor([-1 + math.log(2)])), torch.tensor([0.306853]))


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "is_clipped"),
    [
        (1.0, 1.0, -1.0, False),  # unmoved policy
        (1.5, 1.0, -1.2, True),  # a good token already raised beyond 1 + eps
        (1.5, -1.0, 1.5, False),  # a bad token raised: the full penalty
        (0.5, -1.0, 0.8, True),  # a bad token already lowered beyond 1 - eps
        (0.5, 1.0, -0.5, False),  # a good token lowered: the full incentive
    ],
)
def test_clipping_by_hand(ratio, advantage, loss, is_clipped):
    value, clipped = clipped_surrogate(
        torch.tensor([[math.log(ratio)]]), torch.zeros(1, 1), torch.tensor([advantage]), 0.2
    )
    assert abs(float(value) - loss) < 1e-6
    assert bool(clipped) is is_clipped


def test_rewards_that_do_not_apply_count_as_nothing():
    rewards = torch.tensor([[1.0, float("nan")], [0.5, 2.0]])
    assert torch.equal(combine_rewards(rewards, torch.tensor([1.0, 0.5])), torch.tensor([1.0, 1.5]))


def test_the_exponential_is_exact_up_to_its_bound_and_finite_beyond():
    values = torch.tensor([-100.0, -1.0, 0.0, 19.9, 20.0, 30.0, 1e4], requires_grad=True)
    result = bounded_exp(values)
    result.sum().backward()
    assert torch.equal(result[:5], values[:5].exp())
    # the tangent at 20: e^20 (1 + 30 - 20)
    assert float(result[5].detach()) == pytest.approx(math.exp(20) * 11, rel=1e-6)
    assert torch.isfinite(result).all()
    assert float(values.grad[6]) == pytest.approx(math.exp(20), rel=1e-6)


def test_a_reference_that_finds_a_token_far_likelier_pulls_the_policy_up():
    """Beyond the bound too, lowering the loss means raising the token's probability."""
    logps = torch.tensor([-150.0], requires_grad=True)
    k3_kl(logps, torch.tensor([-1.0])).sum().backward()
    assert torch.isfinite(logps.grad).all()
    assert float(logps.grad) < 0

"""A rollout is held against the distributions that its tokens are scored by."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from swift.engine.rollout.choosing import Sampling
from swift.trainers.rlhf_trainer.agreement import check_sampled, samples_whole_distribution
from swift.utils.errors import UserError


def drawn(count: int, *, sharper: float = 1.0, width: int = 10, seed: int = 0):
    """Log-probabilities and entropies [N, C] under random distributions of tokens drawn at ``sharper`` times their
    logits."""
    torch.manual_seed(seed)
    logits = torch.randn(count, width, 50) * 2
    tokens = torch.distributions.Categorical(logits=logits * sharper).sample()
    scored = torch.distributions.Categorical(logits=logits)
    return scored.log_prob(tokens), scored.entropy(), torch.ones(count, width, dtype=torch.bool)


@pytest.mark.parametrize("seed", range(20))
def test_samples_of_the_policy_pass(seed):
    check_sampled(*drawn(20, seed=seed))


@pytest.mark.parametrize("sharper", [0.0, 8.0])
def test_samples_of_another_policy_do_not(sharper):
    with pytest.raises(UserError, match="not what the policy would say"):
        check_sampled(*drawn(20, sharper=sharper))


def test_what_is_not_in_the_mask_does_not_count():
    logps, entropies, mask = drawn(20)
    check_sampled(torch.where(mask, logps, 0), entropies, mask)
    logps[:, 5:], mask[:, 5:] = -50.0, False
    check_sampled(logps, entropies, mask)


def test_a_few_tokens_are_not_judged():
    check_sampled(*drawn(3, sharper=0.0, width=10))


def test_warped_samples_are_not_judged():
    plain = Sampling(8, (1,), 0, 0.9)
    assert samples_whole_distribution(plain)
    for other in ({"top_k": 5}, {"top_p": 0.9}, {"repetition_penalty": 1.1}, {"temperature": 0.0}):
        assert not samples_whole_distribution(replace(plain, **other))

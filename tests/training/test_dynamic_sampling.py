"""Flat groups are replaced by groups with spread. If there are none, flat groups do not count in the loss."""

from __future__ import annotations

import torch

from swift.engine.batch import Completions, collate_prompts
from swift.llm.dataset import Record
from swift.llm.template.phi4 import EncodedPrompt
from swift.trainers.data import PromptItem
from swift.trainers.rlhf_trainer.advantages import group_advantages
from swift.trainers.rlhf_trainer.dynamic_sampling import other_prompts, replace_flat_groups
from swift.trainers.rlhf_trainer.rollout import Rollout


def rollout(*groups: tuple[int, float, float]) -> Rollout:
    """Groups of two one-token completions, as (index of the prompt, reward, reward)."""
    items = [
        PromptItem(index, Record((), (), None, {}, str(index)), EncodedPrompt(torch.tensor([index]), (), ""))
        for index, *_ in groups
    ]
    rewards = torch.tensor([float(reward) for _, *pair in groups for reward in pair])[:, None]
    advantages, std = group_advantages(rewards.flatten(), 2)
    count = len(rewards)
    true = torch.ones(count, dtype=torch.bool)
    completions = Completions(torch.zeros(count, 1, dtype=torch.long), torch.ones(count, dtype=torch.long), true)
    prompts = collate_prompts([item.prompt for item in items], 0)
    return Rollout(items, prompts, completions, [""] * count, [[""]] * count, rewards, advantages, std, true)


class Others:
    """Serves prepared rollouts, and notes what was asked for."""

    def __init__(self, *rollouts: Rollout) -> None:
        self.rollouts = list(rollouts)
        self.asked: list[tuple[int, set[int], int]] = []

    def __call__(self, count: int, taken: set[int], attempt: int) -> Rollout:
        self.asked.append((count, set(taken), attempt))
        return self.rollouts.pop(0)


def test_a_flat_group_gives_its_place_to_one_with_spread():
    others = Others(rollout((7, 1, 1), (8, 0, 1)), rollout((9, 1, 0)))
    replaced = replace_flat_groups(rollout((0, 0, 0), (1, 0, 1), (2, 1, 1)), 0.1, 5, others)
    # Prompt 8 takes the first flat group's place and 9 the other's. Prompt 7 is flat itself.
    assert [item.index for item in replaced.items] == [8, 1, 9]
    assert replaced.rewards.flatten().tolist() == [0, 1, 0, 1, 1, 0]
    assert replaced.in_loss.all()
    assert others.asked == [(2, {0, 1, 2}, 1), (1, {0, 1, 2, 7, 8}, 2)]


def test_a_group_that_stays_flat_is_kept_and_left_out_of_the_loss():
    others = Others(rollout((7, 1, 1)))
    replaced = replace_flat_groups(rollout((0, 0, 1), (1, 0, 0)), 0.1, 1, others)
    assert [item.index for item in replaced.items] == [0, 1]
    assert replaced.in_loss.tolist() == [True, True, False, False]


def test_other_prompts_are_outside_those_taken_while_there_are_any():
    key = (3, 0, 1, 0)
    assert set(other_prompts(6, 3, {0, 1, 2}, key)) == {3, 4, 5}
    assert other_prompts(6, 3, {0, 1, 2}, key) == other_prompts(6, 3, {0, 1, 2}, key)
    drawn = other_prompts(6, 4, set(range(6)), key)
    assert len(set(drawn)) == 4
    assert set(drawn) <= set(range(6))

"""The order of prompts is a function of seed and epoch, and repeats come block by block."""

from __future__ import annotations

import pytest

from swift.trainers.data import PromptOrder


def blocks(order: PromptOrder) -> list[list[int]]:
    places = list(order)
    assert len(places) == len(order)
    return [places[start : start + order.block] for start in range(0, len(places), order.block)]


@pytest.mark.parametrize("block", [1, 3, 4])
def test_an_epoch_holds_every_prompt_once(block):
    assert sorted(PromptOrder(10, seed=1, block=block)) == list(range(10))


def test_the_order_follows_seed_and_epoch_alone():
    first, second = PromptOrder(50, seed=1), PromptOrder(50, seed=1)
    assert list(first) == list(second) == list(first)
    second.set_epoch(1)
    assert list(first) != list(second)
    assert list(first) != list(PromptOrder(50, seed=2))


def test_repeats_come_block_by_block():
    drawn = blocks(PromptOrder(8, seed=1, block=4, repeats=3))
    assert drawn[0] == drawn[1] == drawn[2] != drawn[3] == drawn[4] == drawn[5]
    assert sorted(drawn[0] + drawn[3]) == list(range(8))


def test_a_short_last_block_is_filled_when_it_repeats():
    """Six prompts in blocks of four: [abcd][abcd][efab][efab]. It was [abcd][abcd][efef], both uses in one step."""
    drawn = blocks(PromptOrder(6, seed=1, block=4, repeats=2))
    assert len(drawn) == 4
    assert drawn[0] == drawn[1]
    assert drawn[2] == drawn[3]
    assert sorted(drawn[0] + drawn[2][:2]) == list(range(6))
    assert drawn[2][2:] == drawn[0][:2]


def test_fewer_prompts_than_a_block_go_round():
    assert [sorted(block) for block in blocks(PromptOrder(2, seed=1, block=4, repeats=2))] == [[0, 0, 1, 1]] * 2

"""Slices of a rollout take whole groups, in order, and as many as fit."""

from __future__ import annotations

import torch

from swift.engine.slices import SAMPLED_BYTES, SLICE_SHARE, cached_bytes, group_slices, passing_bytes
from tests.support.builders import tiny_config


def slices(lengths, room):
    return group_slices(torch.tensor(lengths), 4, 10, tiny_config(), 4, room / SLICE_SHARE)


def test_a_token_of_the_tiny_model_takes_256_bytes():
    """Keys and values of 2 heads of 8 numbers in 2 layers, 4 bytes each: 2 * 2 * 8 * 2 * 4."""
    assert cached_bytes(tiny_config(), 4) == 256


def test_slices_are_cut_where_the_next_group_would_not_fit():
    # A group of a prompt of 20 tokens: 256 * (20 + 4 * 10) = 15,360 bytes kept, and the larger of 4 * (3 * 48 + 4 * 32)
    # * 20 = 21,760 that pass and 30 * 64 * 4 = 7,680 to sample.
    assert passing_bytes(tiny_config(), 4) * 20 == 21760
    assert SAMPLED_BYTES * 64 * 4 == 7680
    group = 15360 + 21760
    assert slices([20] * 5, 2 * group) == [[0, 1], [2, 3], [4]]
    assert slices([20] * 5, 2 * group - 1) == [[0], [1], [2], [3], [4]]
    assert slices([20] * 5, 5 * group) == [[0, 1, 2, 3, 4]]


def test_a_group_that_does_not_fit_is_a_slice_of_its_own():
    assert slices([20, 500, 20, 20], 80_000) == [[0], [1], [2, 3]]


def test_the_longest_prompt_counts_for_all_of_its_slice():
    # 256 * (20 + 40) + 1088 * 20 = 37,120 and 256 * (60 + 40) + 1088 * 60 = 90,880; both padded take 181,760
    assert slices([20, 60], 37_120 + 90_880) == [[0], [1]]
    assert slices([20, 60], 181_760) == [[0, 1]]

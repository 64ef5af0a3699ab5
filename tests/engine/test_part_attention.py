"""Attention to parts of the keys, joined, is attention to all of them."""

from __future__ import annotations

import pytest
import torch

from swift.engine.rollout.part_attention import MASKED, attend_by_products, attend_part, join_parts


def tensors(*shapes):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for shape in shapes]


@pytest.mark.parametrize("attend", [attend_part, attend_by_products])
def test_joined_parts_are_the_softmax_over_all_keys(attend):
    query, keys, values = tensors((2, 3, 5, 8), (2, 3, 7, 8), (2, 3, 7, 8))
    seen = torch.rand(2, 7, generator=torch.Generator().manual_seed(1)) < 0.6
    seen[:, [0, 6]] = True
    bias = torch.zeros(2, 1, 1, 7).masked_fill_(~seen[:, None, None], MASKED)
    scores = torch.einsum("nhqd,nhkd->nhqk", query.double(), keys.double()) * 0.3
    weights = scores.masked_fill(~seen[:, None, None], -torch.inf).softmax(dim=-1)
    expected = weights @ values.double()
    parts = [
        attend(query, keys[:, :, part], values[:, :, part], bias[..., part], 0.3) for part in (slice(4), slice(4, 7))
    ]
    assert (join_parts(*parts[0], *parts[1]) - expected).abs().max() < 1e-6


@pytest.mark.parametrize("attend", [attend_part, attend_by_products])
def test_a_part_without_any_seen_key_weighs_nothing(attend):
    query, keys, values = tensors((1, 2, 3, 8), (1, 2, 4, 8), (1, 2, 4, 8))
    own = attend(query, keys, values, None, 1.0)
    hidden = attend(query, keys, 100 * values, torch.full((1, 1, 1, 4), MASKED), 1.0)
    assert torch.equal(join_parts(*hidden, *own), own[0])

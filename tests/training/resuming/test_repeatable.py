"""Gradients on a CPU are added up in one order, however many threads there are."""

from __future__ import annotations

import pytest
import torch

from swift.trainers.repeatable import sums_in_order

HIDDEN, TOKENS = 192, 400  # more than 32,768 entries, which torch divides among threads


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_the_gradient_of_rows_that_are_taken_many_times_is_repeated_to_the_bit(two_threads):
    """A killed and resumed run differed from an undisturbed one in the last bits, and so did two undisturbed ones."""
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(600, HIDDEN, generator=generator, requires_grad=True)
    rows = torch.randint(600, (TOKENS,), generator=generator)
    rows[150:250] = 7  # on both sides of the middle, so both threads add to row 7
    scale = torch.randn(TOKENS, HIDDEN, generator=generator)
    with sums_in_order(torch.device("cpu")):
        gradients = [torch.autograd.grad((states[rows] * scale).sum(), states)[0] for _ in range(60)]
    assert all(torch.equal(gradient, gradients[0]) for gradient in gradients)


def test_torch_is_left_as_it_was():
    with sums_in_order(torch.device("cpu")):
        assert torch.are_deterministic_algorithms_enabled()
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory

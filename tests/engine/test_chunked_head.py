"""The chunked head equals full logits and log_softmax, values and gradients."""

from __future__ import annotations

import pytest
import torch

from swift.engine import chunked_head
from swift.engine.chunked_head import ChunkedLogProbs, HeadCall, chunk_rows, scoring_head


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_values_and_gradients_equal_the_full_head(monkeypatch, with_bias, temperature):
    monkeypatch.setattr(chunked_head, "CHUNK_ELEMENTS", 3 * 50)  # three rows per chunk, so 10 rows make four chunks
    generator = torch.Generator().manual_seed(0)
    inputs = [
        torch.randn(shape, generator=generator, dtype=torch.float32, requires_grad=True) for shape in ((10, 8), (50, 8))
    ]
    bias = torch.randn(50, generator=generator, requires_grad=True) if with_bias else None
    targets = torch.randint(0, 50, (10,), generator=generator)
    weights = torch.randn(10, generator=generator)
    leaves = [*inputs, *([bias] if with_bias else [])]

    logits = torch.nn.functional.linear(inputs[0], inputs[1], bias) / temperature
    expected = logits.log_softmax(dim=-1)[torch.arange(10), targets]
    expected_gradients = torch.autograd.grad((expected * weights).sum(), leaves)
    logps, entropy = ChunkedLogProbs.apply(*inputs, bias, targets, temperature, True)
    gradients = torch.autograd.grad((logps * weights).sum(), leaves)

    assert torch.allclose(logps, expected, atol=1e-6)
    assert torch.allclose(entropy, torch.distributions.Categorical(logits=logits).entropy(), atol=1e-5)
    for gradient, reference in zip(gradients, expected_gradients, strict=True):
        assert torch.allclose(gradient, reference, atol=1e-5)


def test_gradients_pass_the_numerical_check():
    generator = torch.Generator().manual_seed(1)
    hidden, weight = (
        torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True) for shape in ((4, 3), (6, 3))
    )
    targets = torch.tensor([0, 5, 2, 2])

    def logps(hidden, weight):
        return ChunkedLogProbs.apply(hidden, weight, None, targets, 0.8, False)[0].double()

    assert torch.autograd.gradcheck(logps, (hidden, weight), eps=1e-3, atol=1e-3)


def test_a_chunk_of_phi4_logits_stays_within_its_budget():
    assert chunk_rows(200_064) * 200_064 * 4 <= 64 * 2**20


def test_the_head_is_itself_again_after_scoring():
    head = torch.nn.Linear(4, 9, bias=False)
    hidden = torch.randn(2, 3, 4)
    expected = head(hidden)
    with scoring_head(head, HeadCall(torch.tensor([0, 5]), torch.tensor([1, 2]), 1.0)):
        assert head(hidden).shape == (2,)
    assert torch.equal(head(hidden), expected)

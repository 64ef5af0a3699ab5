"""Divergences of completions after other prompts, against full distributions in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from swift.engine import chunked_head
from swift.engine.divergence import completion_divergences, token_divergences
from swift.engine.logprobs import completion_logprobs
from tests.support.builders import random_completions, random_prompts, tiny_model

TEMPERATURE = 0.9


def slow_divergence(logits: torch.Tensor, others: torch.Tensor) -> list[float]:
    ours, theirs = logits.double().softmax(dim=-1), others.double().softmax(dim=-1)
    return [
        sum(float(p * (p / q).log()) for p, q in zip(*pair, strict=True)) for pair in zip(ours, theirs, strict=True)
    ]


@pytest.mark.parametrize("with_bias", [False, True])
def test_a_divergence_is_that_of_the_whole_distributions(monkeypatch, with_bias):
    monkeypatch.setattr(chunked_head, "CHUNK_ELEMENTS", 3 * 100)  # three rows per chunk, so 10 rows make four chunks
    generator = torch.Generator().manual_seed(0)
    hidden, other, weight = (torch.randn(shape, generator=generator) for shape in ((10, 8), (10, 8), (50, 8)))
    bias = torch.randn(50, generator=generator) if with_bias else None
    logits, others = (torch.nn.functional.linear(states, weight, bias) / TEMPERATURE for states in (hidden, other))
    measured = token_divergences(hidden, other, weight, bias, TEMPERATURE)
    assert measured.tolist() == pytest.approx(slow_divergence(logits, others), rel=1e-4, abs=1e-5)
    assert token_divergences(hidden, hidden, weight, bias, TEMPERATURE).tolist() == [0.0] * 10


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "plain"])
def test_divergences_of_completions_equal_one_forward_per_completion(packed):
    """After the same question about two images."""
    model, prompts, completions = tiny_model(), random_prompts(), random_completions(6)
    masked = replace(prompts, pictures=tuple(map(inverted, prompts.pictures)))
    scores = completion_logprobs(model, prompts, completions, temperature=TEMPERATURE, packed=packed, with_hidden=True)
    measured = completion_divergences(model, masked, completions, scores.hidden, temperature=TEMPERATURE, packed=packed)
    assert measured.shape == completions.mask.shape
    for index, ids in enumerate(completions.token_lists()):
        rows = []
        for batch in (prompts, masked):
            prompt = batch.select([index // 2])
            text = prompt.input_ids[prompt.mask][None]
            logits = model(torch.cat([text, torch.tensor([ids])], dim=1), **prompt.image_inputs()).logits
            rows.append(logits[0, text.shape[1] - 1 : -1].detach() / TEMPERATURE)
        expected = slow_divergence(*rows)
        assert measured[index, : len(ids)].tolist() == pytest.approx(expected, rel=1e-2, abs=1e-6)
        assert measured[index, len(ids) :].tolist() == [0.0] * (measured.shape[1] - len(ids))
    assert measured.max() > 1e-4


def inverted(pictures: tuple) -> tuple:
    return tuple(replace(picture, pixel_values=-picture.pixel_values) for picture in pictures)

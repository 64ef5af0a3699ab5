"""Decoding in stages gives the same completions as decoding in one go."""

from __future__ import annotations

import pytest
import torch

from swift.engine import staged_sampling as shrinking
from swift.engine.sampling import Sampling, generate
from swift.engine.staged_sampling import generate_shrinking
from tests.support.builders import PAD, random_prompts, tiny_model

STOPS = tuple(range(7, 15))  # an eighth of the vocabulary: answers end early and late


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.mark.parametrize("stage", [1, 3, 5, 100])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_stages_change_nothing(model, monkeypatch, temperature, stage):
    monkeypatch.setattr(shrinking, "STAGE", stage)
    prompts = random_prompts(images=(1, 2, 0, 1), lengths=(7, 4, 9, 5))
    sampling = Sampling(11, STOPS, PAD, temperature, banned_token_ids=(5, 6))
    uniforms = torch.rand(12, 11, generator=torch.Generator().manual_seed(3))
    expected = generate(model, prompts, 3, sampling, uniforms)
    staged = generate_shrinking(model, prompts, 3, sampling, uniforms)
    assert staged.token_lists() == expected.token_lists()
    assert staged.finished.tolist() == expected.finished.tolist()
    if temperature:
        assert len(set(staged.lengths.tolist())) > 3


def test_finished_answers_leave_the_batch(model, monkeypatch):
    monkeypatch.setattr(shrinking, "STAGE", 2)
    prompts = random_prompts()
    sampling = Sampling(12, STOPS, PAD, 1.0, banned_token_ids=(5, 6))
    uniforms = torch.rand(9, 12, generator=torch.Generator().manual_seed(0))
    sizes = []

    def count(module, args, kwargs):
        sizes.append(len(kwargs["input_ids"]))

    hook = model.register_forward_pre_hook(count, with_kwargs=True)
    with hook:
        lengths = generate_shrinking(model, prompts, 3, sampling, uniforms).lengths
    # one prefill of three prompts, then at step n (from 0) the rows that had not stopped when their stage began
    expected = [3] + [int((lengths > step - step % 2).sum()) for step in range(int(lengths.max()))]
    assert sizes == [size for size in expected if size]

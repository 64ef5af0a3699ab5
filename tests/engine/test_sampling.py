"""Sampling: a shared prefill changes nothing, the distribution is the policy's, and banned tokens never appear."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

from swift.engine.rollout.choosing import Sampling, invert, prompt_uniforms
from swift.engine.sampling import generate
from swift.llm.policy import prompt_embeddings
from tests.support.builders import IMAGE_TOKEN, PAD, STOPS, random_prompts, tiny_model

LENGTH = 12
GREEDY = Sampling(LENGTH, STOPS, PAD, temperature=0, banned_token_ids=(IMAGE_TOKEN,))
SAMPLED = replace(GREEDY, temperature=0.9)


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def prompts():
    return random_prompts()


def uniforms_for(prompts, size, seed=0):
    return torch.from_numpy(np.concatenate([prompt_uniforms((seed, row), size, LENGTH) for row in range(len(prompts))]))


def greedy_one_by_one(model, prompts):
    """The slow reference: no cache, no padding, argmax of a full forward for every token."""
    rows = []
    for row in range(len(prompts)):
        prompt = prompts.select([row])
        ids = prompt.input_ids
        for _ in range(LENGTH):
            logits = model(ids, **prompt.image_inputs()).logits[0, -1].clone()
            logits[IMAGE_TOKEN] = -torch.inf
            ids = torch.cat([ids, logits.argmax()[None, None]], dim=1)
            if int(ids[0, -1]) in STOPS:
                break
        rows.append(ids[0, prompt.input_ids.shape[1] :].tolist())
    return rows


@pytest.mark.parametrize("size", [1, 2, 8])
def test_greedy_rollout_equals_argmax_of_full_forwards(model, prompts, size):
    expected = greedy_one_by_one(model, prompts)
    sampled = generate(model, prompts, size, GREEDY).token_lists()
    assert sampled == [row for row in expected for _ in range(size)]


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED, replace(SAMPLED, top_k=5), replace(SAMPLED, top_p=0.8)])
def test_shared_and_plain_rollout_draw_the_same_tokens(model, prompts, sampling):
    uniforms = uniforms_for(prompts, 4)
    shared = generate(model, prompts, 4, sampling, uniforms)
    plain = generate(model, prompts, 4, sampling, uniforms, shared=False)
    assert shared.token_lists() == plain.token_lists()
    assert torch.equal(shared.finished, plain.finished)


def test_shared_prompt_embeddings_draw_the_same_tokens(model, prompts):
    embeds = prompt_embeddings(model, prompts.input_ids, prompts.image_inputs())
    shared = prompts.with_embeds(embeds)
    uniforms = uniforms_for(prompts, 4)
    expected = generate(model, prompts, 4, SAMPLED, uniforms).token_lists()
    assert generate(model, shared, 4, SAMPLED, uniforms).token_lists() == expected


def test_the_loop_of_transformers_refuses_prompts_whose_images_are_embeddings(model, prompts):
    embeds = prompt_embeddings(model, prompts.input_ids, prompts.image_inputs())
    with pytest.raises(ValueError, match="reads their images"):
        generate(model, prompts.with_embeds(embeds), 4, GREEDY, shared=False)


def test_a_completion_does_not_depend_on_its_batch(model, prompts):
    together = generate(model, prompts, 2, SAMPLED, uniforms_for(prompts, 2)).token_lists()
    for row in range(len(prompts)):
        uniforms = torch.from_numpy(prompt_uniforms((0, row), 2, LENGTH))
        alone = generate(model, prompts.select([row]), 2, SAMPLED, uniforms).token_lists()
        assert alone == together[2 * row : 2 * row + 2]


def test_samples_follow_the_softmax_at_the_temperature(model):
    prompts, count = random_prompts(images=(1,), lengths=(5,), seed=2), 4000
    one_token = replace(SAMPLED, max_new_tokens=1)
    uniforms = torch.from_numpy(prompt_uniforms((7,), count, 1))
    drawn = generate(model, prompts, count, one_token, uniforms).ids[:, 0]
    logits = model(prompts.input_ids, **prompts.image_inputs()).logits[0, -1].double() / SAMPLED.temperature
    logits[IMAGE_TOKEN] = -torch.inf
    expected = logits.softmax(dim=-1) * count
    counts = torch.bincount(drawn, minlength=len(expected)).double()
    common = expected >= 5
    # Pearson's statistic has mean k - 1 and variance 2 (k - 1) for k cells: five deviations above are a wrong sampler.
    statistic = float(((counts - expected)[common] ** 2 / expected[common]).sum())
    cells = int(common.sum())
    assert cells > 3
    assert statistic < cells + 5 * (2 * cells) ** 0.5


def test_the_checkpoints_generation_settings_bend_nothing(prompts):
    model = tiny_model()
    expected = generate(model, prompts, 2, GREEDY).token_lists()
    first = expected[0][0]
    settings = {"suppress_tokens": [first], "repetition_penalty": 3.0, "forced_eos_token_id": 1, "min_length": 40}
    model.generation_config = GenerationConfig(**settings)
    assert generate(model, prompts, 2, GREEDY).token_lists() == expected
    assert generate(model, prompts, 2, GREEDY, shared=False).token_lists() == expected
    assert model.generation_config.suppress_tokens == [first]


def test_banned_tokens_are_never_drawn(model, prompts):
    free = replace(SAMPLED, temperature=50.0, stop_token_ids=(63,))
    banned = replace(free, banned_token_ids=tuple(range(10, 60)))
    uniforms = uniforms_for(prompts, 16)
    assert set(range(10, 60)) & set(generate(model, prompts, 16, free, uniforms).ids.flatten().tolist())
    assert not set(range(10, 60)) & set(generate(model, prompts, 16, banned, uniforms).ids.flatten().tolist())


def test_completions_end_with_their_stop_token_or_at_the_limit(model, prompts):
    completions = generate(model, prompts, 32, replace(SAMPLED, temperature=3.0), uniforms_for(prompts, 32))
    assert 0 < int(completions.finished.sum()) < len(completions)
    for ids, finished in zip(completions.token_lists(), completions.finished.tolist(), strict=True):
        assert not set(ids[:-1]) & set(STOPS)
        assert (ids[-1] in STOPS) if finished else (len(ids) == LENGTH and ids[-1] not in STOPS)


def test_sampling_needs_uniform_numbers(model, prompts):
    with pytest.raises(ValueError, match="uniform"):
        generate(model, prompts, 2, SAMPLED)


@pytest.mark.parametrize(
    ("uniform", "token", "reason"),
    [
        (0.0, 1, "token 0 has probability zero"),
        (0.2499, 1, "inside the first slice"),
        (0.25, 3, "on the border the next slice begins; token 2 has probability zero"),
        (0.9999, 3, "inside the last slice"),
        (1 - 2**-53, 3, "the largest number below one does not reach token 4, of probability zero"),
    ],
)
def test_inversion_by_hand(uniform, token, reason):
    probabilities = torch.tensor([[0.0, 0.25, 0.0, 0.75, 0.0]])
    assert int(invert(probabilities, torch.tensor([uniform], dtype=torch.float64))) == token, reason

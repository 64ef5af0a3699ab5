"""Packed, plain and from-scratch log-probabilities are the same numbers, and so are their gradients."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from swift.engine.logprobs import completion_logprobs, why_plain
from swift.engine.packing import PADDING, group_mask, packed_layout, plain_layout
from swift.llm.images.dynamic_hd import DynamicHDImageProcessor, collate
from swift.llm.policy import prompt_embeddings
from tests.support.builders import (
    IMAGE_TOKEN,
    random_completions,
    random_image,
    random_prompts,
    tiny_model,
    train_adapter_and_head,
)
from tests.support.slow_logprobs import logps_one_by_one

TEMPERATURE = 0.9
TOLERANCE = 1e-5


def gradients(model, logps: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    weights = torch.linspace(-1, 1, logps.numel()).view_as(logps)
    (logps * weights).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def model(request):
    model = tiny_model(tie=request.param)
    train_adapter_and_head(model)
    return model


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "plain"])
@pytest.mark.parametrize("size", [1, 2, 8])
def test_scores_and_gradients_equal_one_forward_per_completion(model, size, packed):
    prompts, completions = random_prompts(), random_completions(3 * size, seed=size)
    expected = logps_one_by_one(model, prompts, completions, TEMPERATURE)
    expected_gradients = gradients(model, expected)
    logps = completion_logprobs(model, prompts, completions, temperature=TEMPERATURE, packed=packed).logps
    assert (logps - expected).abs().max() < TOLERANCE
    measured = gradients(model, logps)
    assert measured.keys() == expected_gradients.keys()
    scale = max(float(value.abs().max()) for value in expected_gradients.values())
    for name, value in expected_gradients.items():
        assert (measured[name] - value).abs().max() < TOLERANCE * max(1.0, scale), name


def test_shared_prompt_embeddings_give_the_same_scores(model):
    prompts, completions = random_prompts(), random_completions(6)
    shared = prompts.with_embeds(prompt_embeddings(model, prompts.input_ids, prompts.image_inputs()))
    expected = completion_logprobs(model, prompts, completions).logps
    for packed in (True, False):
        assert torch.allclose(
            completion_logprobs(model, shared, completions, packed=packed).logps, expected, atol=TOLERANCE
        )


def test_eager_attention_packs_too():
    model = tiny_model()
    prompts, completions = random_prompts(), random_completions(6)
    expected = completion_logprobs(model, prompts, completions, packed=False).logps
    model.set_attn_implementation("eager")
    assert why_plain(model) is None
    assert torch.allclose(completion_logprobs(model, prompts, completions, packed=True).logps, expected, atol=TOLERANCE)


def test_attention_without_a_dense_mask_is_not_packed():
    model = tiny_model()
    model.config._attn_implementation = "flash_attention_2"
    assert why_plain(model) == "flash_attention_2 takes no per-token mask"


def test_a_completion_does_not_see_its_siblings(model):
    prompts, completions = random_prompts(), random_completions(6)
    before = completion_logprobs(model, prompts, completions).logps
    ids = completions.ids.clone()
    ids[0] = (ids[0] + 1).clamp(7, 63)
    after = completion_logprobs(model, prompts, replace(completions, ids=ids)).logps
    assert torch.equal(before[1:], after[1:])
    assert not torch.equal(before[0], after[0])


def test_entropy_equals_its_definition(model):
    prompts, completions = random_prompts(images=(1,), lengths=(5,)), random_completions(1, longest=4, seed=3)
    entropy = completion_logprobs(model, prompts, completions, temperature=TEMPERATURE, with_entropy=True).entropy
    text = torch.cat([prompts.input_ids, completions.ids], dim=1)
    logps = (model(text, **prompts.image_inputs()).logits[0] / TEMPERATURE).log_softmax(dim=-1)
    expected = -(logps.exp() * logps).sum(dim=-1)[prompts.input_ids.shape[1] - 1 : -1]
    length = int(completions.lengths[0])
    assert torch.allclose(entropy[0, :length], expected[:length], atol=TOLERANCE)


def test_image_features_do_not_depend_on_the_other_images_of_the_batch(model):
    """The vision tower used to be causal in batches without padding and bidirectional in others."""
    generator = np.random.default_rng(0)
    processor = DynamicHDImageProcessor(crop_size=28, patch_size=14, dynamic_hd=4)
    square, tall = (processor(random_image(generator, size)) for size in ((56, 56), (56, 84)))
    assert not tall.attention_mask.all()  # the tall image has padding, the square one has none
    assert square.attention_mask.all()
    ids = torch.full((1, square.num_tokens), IMAGE_TOKEN)
    alone = prompt_embeddings(model, ids, collate([square]))
    both = torch.full((1, square.num_tokens + tall.num_tokens), IMAGE_TOKEN)
    together = prompt_embeddings(model, both, collate([square, tall]))
    assert torch.allclose(together[:, : square.num_tokens], alone, atol=TOLERANCE)


def test_group_mask_by_hand():
    # columns: padding, prompt, prompt, c1, c1, c2
    mask = group_mask(torch.tensor([[PADDING, 0, 0, 1, 1, 2]]), queries=6)[0].int().tolist()
    assert mask == [
        [1, 0, 0, 0, 0, 0],  # padding sees itself
        [0, 1, 0, 0, 0, 0],
        [0, 1, 1, 0, 0, 0],
        [0, 1, 1, 1, 0, 0],
        [0, 1, 1, 1, 1, 0],
        [0, 1, 1, 0, 0, 1],  # the second completion sees the prompt and itself
    ]


def test_packed_rows_hold_the_prompt_once():
    prompts, completions = random_prompts(images=(0,), lengths=(10,)), random_completions(4, longest=3)
    packed, plain = packed_layout(prompts, completions), plain_layout(prompts, completions)
    assert packed.position_ids.shape == (1, 10 + int(completions.lengths.sum()))
    assert plain.position_ids.shape == (4, 10 + 3)


def test_groups_must_come_out_even():
    with pytest.raises(ValueError, match="do not divide"):
        packed_layout(random_prompts(), random_completions(4))

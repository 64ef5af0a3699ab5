"""Groups in sections and slices have the loss, scores and gradients of packed rows."""

from __future__ import annotations

import pytest
import torch

from swift.engine.batch import PromptBatch
from swift.engine.logprobs import completion_logprobs
from swift.engine.long_groups import Passes, sliced_loss
from swift.llm.policy import prompt_embeddings
from tests.support.builders import (
    longrope_model,
    random_completions,
    random_prompts,
    tiny_model,
    train_adapter_and_head,
)

TEMPERATURE = 0.9
TOLERANCE = 1e-5


def slice_loss(rows: slice, scores) -> torch.Tensor:
    """A loss whose gradient differs from token to token."""
    places = torch.arange(rows.start, rows.stop)[:, None] * 1.3 + torch.arange(scores.logps.shape[1]) * 0.7
    return (scores.logps * places.sin()).sum() + (scores.logps**2).sum() / 7


def gradients(model, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_equal_gradients(measured: dict, expected: dict) -> None:
    assert measured.keys() == expected.keys()
    scale = max(float(value.abs().max()) for value in expected.values())
    for name, value in expected.items():
        assert (measured[name] - value).abs().max() < TOLERANCE * max(1.0, scale), name


def with_embeds(model, prompts: PromptBatch) -> PromptBatch:
    return prompts.with_embeds(prompt_embeddings(model, prompts.input_ids, prompts.image_inputs()))


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def model(request):
    model = tiny_model(tie=request.param)
    train_adapter_and_head(model)
    return model


@pytest.mark.parametrize("passes", [(1000, 1), (1000, 9), (5, 4), (1, 1000)], ids=str)
@pytest.mark.parametrize("size", [1, 2, 8])
def test_loss_and_gradients_equal_those_of_packed_rows(model, size, passes):
    prompts, completions = random_prompts(), random_completions(3 * size, seed=size)
    prompts = with_embeds(model, prompts)
    packed = completion_logprobs(model, prompts, completions, temperature=TEMPERATURE, with_entropy=True)
    expected = slice_loss(slice(0, len(completions)), packed)
    expected_gradients = gradients(model, expected)
    loss, scores = sliced_loss(
        model, prompts, completions, Passes(*passes), slice_loss, temperature=TEMPERATURE, with_entropy=True
    )
    assert torch.allclose(loss, expected, atol=TOLERANCE)
    assert (scores.logps - packed.logps).abs().max() < TOLERANCE
    assert (scores.entropy - packed.entropy).abs().max() < TOLERANCE
    assert_equal_gradients(gradients(model, loss), expected_gradients)


def test_what_trains_before_the_decoder_gets_its_gradients_too():
    model = tiny_model().requires_grad_(True)
    prompts, completions = random_prompts(), random_completions(6)
    expected = slice_loss(slice(0, 6), completion_logprobs(model, prompts, completions))
    expected_gradients = gradients(model, expected)
    loss, _ = sliced_loss(model, prompts, completions, Passes(4, 5), slice_loss)
    assert any("img_processor" in name for name in expected_gradients)
    assert_equal_gradients(gradients(model, loss), expected_gradients)


@pytest.mark.parametrize("length", [25, 26, 40])
def test_a_prompt_beyond_the_longrope_switch_takes_the_long_frequencies_in_every_pass(length):
    model = longrope_model()  # it changes its frequencies beyond 24 tokens
    train_adapter_and_head(model)
    prompts = with_embeds(model, random_prompts(images=(0,), lengths=(length,)))
    completions = random_completions(3)
    packed = completion_logprobs(model, prompts, completions)
    expected = gradients(model, slice_loss(slice(0, 3), packed))
    loss, scores = sliced_loss(model, prompts, completions, Passes(5, 4), slice_loss)
    assert (scores.logps - packed.logps).abs().max() < TOLERANCE
    assert_equal_gradients(gradients(model, loss), expected)


def test_eager_attention_takes_slices_too(model):
    prompts, completions = with_embeds(model, random_prompts()), random_completions(6)
    expected, _ = sliced_loss(model, prompts, completions, Passes(4, 5), slice_loss)
    try:
        model.set_attn_implementation("eager")
        measured, _ = sliced_loss(model, prompts, completions, Passes(4, 5), slice_loss)
    finally:
        model.set_attn_implementation("sdpa")
    assert torch.allclose(measured, expected, atol=TOLERANCE)


def test_gradient_checkpointing_changes_nothing(model):
    prompts, completions = with_embeds(model, random_prompts()), random_completions(6)
    expected = gradients(model, sliced_loss(model, prompts, completions, Passes(4, 5), slice_loss)[0])
    try:
        model.train()
        model.gradient_checkpointing_enable()
        measured = gradients(model, sliced_loss(model, prompts, completions, Passes(4, 5), slice_loss)[0])
        assert all(layer.gradient_checkpointing for layer in model.model.layers)
    finally:
        model.gradient_checkpointing_disable()
        model.eval()
    assert_equal_gradients(measured, expected)


def test_without_gradients_only_loss_and_scores_are_computed(model):
    prompts, completions = with_embeds(model, random_prompts()), random_completions(6)
    with torch.no_grad():
        loss, scores = sliced_loss(model, prompts, completions, Passes(4, 5), slice_loss)
    assert not loss.requires_grad
    assert torch.allclose(loss, slice_loss(slice(0, 6), scores), atol=TOLERANCE)


def test_a_backward_scales_the_gradients(model):
    prompts, completions = with_embeds(model, random_prompts()), random_completions(6)
    once = gradients(model, sliced_loss(model, prompts, completions, Passes(4, 5), slice_loss)[0])
    thrice = gradients(model, 3 * sliced_loss(model, prompts, completions, Passes(4, 5), slice_loss)[0])
    assert_equal_gradients({name: value / 3 for name, value in thrice.items()}, once)


def test_passes_by_hand():
    passes = Passes(4, 5)
    assert passes.sections(9) == [slice(0, 4), slice(4, 8), slice(8, 9)]
    assert passes.sections(0) == []
    # 2 + 3 fill a slice, 7 alone is more than a slice and is not cut, 1 + 1 + 1 are the rest
    assert list(passes.slices([2, 3, 7, 1, 1, 1])) == [slice(0, 2), slice(2, 3), slice(3, 6)]


def test_passes_hold_a_token_at_least():
    with pytest.raises(ValueError, match="give 1 or more"):
        Passes(0, 5)

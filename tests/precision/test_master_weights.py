"""Trainable weights are kept in float32 while the model computes in bfloat16. No update is lost."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from swift.engine.logprobs import completion_logprobs
from swift.engine.probe import Forced
from swift.engine.rollout.choosing import Sampling
from swift.engine.sampling import decode
from swift.llm.policy import trainable_parameters
from swift.trainers.master_weights import keep_in_float32
from swift.trainers.reference import Snapshot
from tests.support.builders import (
    PAD,
    VOCABULARY,
    random_completions,
    random_prompts,
    tiny_model,
    train_adapter_and_head,
)
from utils.freezing import untie_head

GROUP = 2


def bfloat16_model(master: bool):
    model = tiny_model(scale=3.0)
    untie_head(model)
    model.to(torch.bfloat16)
    train_adapter_and_head(model)
    if master:
        assert keep_in_float32(model) == torch.bfloat16
    return model


def scored(model, packed=True):
    prompts, completions = random_prompts(), random_completions(6)
    return completion_logprobs(model, prompts, completions, packed=packed).logps


def test_what_trains_is_float32_and_the_rest_as_it_was():
    model = bfloat16_model(master=True)
    for parameter in model.parameters():
        assert parameter.dtype == (torch.float32 if parameter.requires_grad else torch.bfloat16)


def sampled(model):
    """Log-probabilities of given completions, fed token by token through the decoding loop."""
    prompts, completions = random_prompts(), random_completions(6)
    forced = Forced(completions.ids)
    sampling = Sampling(completions.ids.shape[1], (VOCABULARY,), PAD, temperature=0)
    decode(model, prompts, GROUP, sampling, forced)
    return forced.logps[completions.mask]


def test_after_updates_sampling_and_scoring_see_the_same_rounded_values():
    model, rounded = bfloat16_model(master=True), bfloat16_model(master=False)
    with torch.no_grad():
        for (_, master), (_, value) in zip(model.named_parameters(), rounded.named_parameters(), strict=True):
            if master.requires_grad:
                master += 1e-3 * torch.randn_like(master)
                value.copy_(master)
    assert torch.equal(scored(model), scored(rounded))
    with Snapshot.of(model, torch.bfloat16).swapped_into(model), torch.no_grad():
        while_sampling = sampled(model)
    assert torch.equal(while_sampling, sampled(rounded))
    assert {p.dtype for p in trainable_parameters(model).values()} == {torch.float32}


@pytest.mark.parametrize("packed", [True, False])
def test_the_model_computes_as_it_did_in_bfloat16(packed):
    assert torch.equal(scored(bfloat16_model(master=True), packed), scored(bfloat16_model(master=False), packed))


def test_a_forward_with_logits_is_the_same_too():
    ids = torch.arange(8, 20)[None]
    with torch.no_grad():
        expected, logits = (bfloat16_model(master=m)(ids).logits for m in (False, True))
    assert logits.dtype == torch.bfloat16
    assert torch.equal(logits, expected)


def test_gradients_are_float32_and_those_of_bfloat16_but_for_rounding():
    grads = []
    for master in (True, False):
        model = bfloat16_model(master)
        scored(model).sum().backward()
        grads.append({name: value.grad for name, value in trainable_parameters(model).items()})
    for name, grad in grads[0].items():
        assert grad.dtype == torch.float32
        expected = grads[1][name].float()
        assert (grad - expected).norm() <= 0.01 * expected.norm(), name


def test_small_updates_add_up():
    """A thousand updates of 1e-5 move an entry near 0.02 by 0.01; in bfloat16, each alone rounds to nothing."""
    moved = {}
    for master in (True, False):
        layer = nn.Linear(4, 4).to(torch.bfloat16)
        nn.init.constant_(layer.weight, 0.02)
        if master:
            keep_in_float32(layer)
        before = layer.weight.detach().clone()
        with torch.no_grad():
            for _ in range(1000):
                layer.weight += 1e-5
        moved[master] = float((layer.weight.detach() - before).abs().max())
    assert moved[True] == pytest.approx(0.01, rel=1e-3)
    assert moved[False] == 0


def test_two_steps_of_a_layer_equal_casting_by_hand():
    torch.manual_seed(0)
    layer, x = nn.Linear(16, 8).to(torch.bfloat16), torch.randn(5, 16, dtype=torch.bfloat16)
    weight, bias = layer.weight.detach().float().requires_grad_(), layer.bias.detach().float().requires_grad_()
    keep_in_float32(layer)
    for _ in range(2):
        layer(x).square().sum().backward()
        nn.functional.linear(x, weight.bfloat16(), bias.bfloat16()).square().sum().backward()
        assert torch.equal(layer.weight.grad, weight.grad)
        assert torch.equal(layer.bias.grad, bias.grad)
        with torch.no_grad():
            for kept, by_hand in ((layer.weight, weight), (layer.bias, bias)):
                kept -= 1e-3 * kept.grad
                by_hand -= 1e-3 * by_hand.grad


def test_every_kind_of_layer_takes_what_the_model_passes_it():
    """Norms, embeddings and convolutions of a model that trains whole."""
    model = tiny_model(scale=3.0).to(torch.bfloat16).requires_grad_(True)
    keep_in_float32(model)
    prompts = random_prompts(vocabulary=60)
    logps = completion_logprobs(model, prompts, random_completions(6, vocabulary=60)).logps
    logps.sum().backward()
    plain = tiny_model(scale=3.0).to(torch.bfloat16)
    assert torch.equal(logps, completion_logprobs(plain, prompts, random_completions(6, vocabulary=60)).logps)


def test_a_float32_model_is_left_alone():
    model = tiny_model()
    train_adapter_and_head(model)
    assert keep_in_float32(model) is None
    assert not any("forward" in vars(module) for module in model.modules())


def test_float16_is_refused():
    with pytest.raises(ValueError, match="float16; pass --torch_dtype bfloat16 or float32"):
        keep_in_float32(nn.Linear(2, 2).half())

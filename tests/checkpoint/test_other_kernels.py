"""SmolVLM, LLaVA, Qwen2.5-VL and Gemma 3 with the attention that packed rows use on a GPU, and in a profile."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch

from swift.engine.attention import varlen
from swift.engine.attention.choice import FLEX, PARTS, attend_by
from swift.engine.logprobs import completion_logprobs
from swift.engine.probe import probe_batch
from swift.llm.checkpoint.load import load_policy
from swift.llm.dataset import load_records
from swift.llm.policy import Policy
from swift.llm.template.choose import template_for
from swift.trainers.profile.limits import Sizes
from tests.support.slow_logprobs import SlowKernel


@pytest.fixture(scope="module")
def policy(other_model) -> Policy:
    return load_policy(other_model)


@torch.no_grad()
@pytest.mark.parametrize("name", [FLEX, PARTS])
def test_kernels_for_a_gpu_see_what_the_dense_mask_shows(policy, world, name, monkeypatch):
    monkeypatch.setattr(varlen, "kernel", SlowKernel())
    template, base = template_for(policy), load_records([world / "data" / "train.json"])
    examples = [template.encode_prompt(record) for record in (base[0], replace(base[2], images=()))]
    batch = probe_batch(policy.model, template, examples)
    attend_by(policy.model, "sdpa")
    expected = completion_logprobs(policy.model, *batch).logps
    attend_by(policy.model, name)
    if (policy.model.config.model_type, name) == ("gemma3", PARTS):
        with pytest.raises(ValueError, match="the tokens of an image see each other"):
            completion_logprobs(policy.model, *batch)
    else:
        assert (completion_logprobs(policy.model, *batch).logps - expected).abs().max() < 1e-5


def test_a_profile_counts_the_decoder_and_no_tower(policy):
    weights = {name: value.numel() for name, value in policy.model.named_parameters()}
    expected = sum(size for name, size in weights.items() if re.search(r"(language|text)_model.*layers\.", name))
    assert Sizes.of(policy.model, torch.float32).decoder == expected > 0

"""The memory plan: each part by hand, and the refusal of what cannot fit."""

from __future__ import annotations

import pytest
import torch

from swift.trainers.memory_plan import Load, plan_memory, refuse_what_cannot_fit
from swift.utils.errors import UserError
from tests.support.builders import tiny_model

WHOLE = {"weights": 1, "gradients": 1, "optimizer": 1}
LOAD = Load(prompts=3, prompt_tokens=100, group_size=4, completion_tokens=10, prompts_per_update=1)


def plan(model, **more):
    settings = {
        "optimizer": "adamw_torch",
        "reference": 0.0,
        "checkpointing": False,
        "split": WHOLE,
        "compute": torch.bfloat16,
        **more,
    }
    return plan_memory(model, LOAD, **settings)


@pytest.fixture
def model():
    """A bfloat16 model of which the LoRA matrices alone train."""
    model = tiny_model().to(torch.bfloat16)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".lora_" in name)
    return model


def trained(model):
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_what_trains_takes_sixteen_bytes_an_entry_and_the_rest_two(model):
    held, update = plan(model).held, plan(model).update
    total = sum(p.numel() for p in model.parameters())
    assert held["frozen weights"] == 2 * (total - trained(model))
    assert held["trained weights in float32"] + update["gradients"] + held["optimizer state"] == 16 * trained(model)


def test_a_rollout_does_not_hold_gradients(model):
    assert "gradients" not in plan(model).held
    assert "gradients" not in plan(model).rollout


def test_eight_bit_optimizers_keep_two_bytes_of_state(model):
    assert plan(model, optimizer="adamw_torch_8bit").held["optimizer state"] == 2 * trained(model)


def test_a_rollout_holds_every_completion_with_its_prompt(model):
    # 2 (keys, values) x 2 layers x 2 heads x 8 wide x 2 bytes = 128 bytes a token; 3 x 4 x (100 + 10) tokens
    assert plan(model).rollout["keys and values"] == 128 * 1320


def test_a_micro_batch_holds_its_packed_rows(model):
    # 1 row of 100 + 4 x 10 tokens, 64 logits each, 4 bytes, three of them at once
    assert plan(model).update["logits"] == 3 * 4 * 64 * 140


def test_the_peak_is_what_is_held_and_the_larger_stage(model):
    parts = plan(model)
    assert parts.peak == sum(parts.held.values()) + max(sum(parts.rollout.values()), sum(parts.update.values()))


def test_division_over_processes_divides_what_it_says(model):
    half = plan(model, split={"weights": 2, "gradients": 2, "optimizer": 2}).held
    assert half == {name: value / 2 for name, value in plan(model).held.items()}


def test_what_cannot_fit_is_refused_with_a_remedy(model):
    parts = plan(model)
    refuse_what_cannot_fit(parts, parts.certain)
    with pytest.raises(UserError, match=r"needs .* GB and the device has .* GB, most of it for keys and values; lower"):
        refuse_what_cannot_fit(parts, parts.certain - 1)


def test_every_part_is_a_line(model):
    lines = plan(model, reference=1e9).lines()
    assert any(line.startswith("reference") and line.endswith("1.000 GB") for line in lines)
    assert lines[-1].startswith("peak")

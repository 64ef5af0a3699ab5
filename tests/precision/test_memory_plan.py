"""The memory plan: each part by hand, what is certain, and the refusal of what cannot fit."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from swift.trainers.data import PromptDataset, prompt_lengths
from swift.trainers.memory_plan import (
    Load,
    MemoryPlan,
    announce_plan,
    plan_memory,
    processes_per_part,
    refuse_large_model,
    refuse_what_cannot_fit,
)
from swift.trainers.rlhf_trainer.reference_policy import choose_reference
from swift.utils.errors import UserError
from tests.support import sft_runs
from tests.support.builders import tiny_model
from tests.support.grpo_runs import make_trainer

WHOLE = {"weights": 1, "gradients": 1, "optimizer": 1}
LOAD = Load(prompts=3, shortest_prompt=20, longest_prompt=100, group_size=4, completion_tokens=10, prompts_per_update=1)
GPU = torch.device("cuda")


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


@pytest.fixture
def gpu_of(monkeypatch):
    """Call with a number of bytes: torch then reports a GPU of that memory."""

    def report(capacity: float) -> None:
        properties = SimpleNamespace(total_memory=capacity)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)

    return report


@pytest.fixture
def messages(caplog):
    """What the project's logger says in the test."""
    logging.getLogger("chex").addHandler(caplog.handler)
    yield caplog
    logging.getLogger("chex").removeHandler(caplog.handler)


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


@pytest.mark.parametrize(
    ("optimizer", "bytes_per_entry"),
    [("adamw_torch_8bit", 2), ("adamw_torch_4bit", 1), ("adamw_torch_fused", 8), ("lion_32bit", 4), ("sgd", 0)],
)
def test_the_optimizer_decides_the_bytes_of_its_state(model, optimizer, bytes_per_entry):
    assert plan(model, optimizer=optimizer).held["optimizer state"] == bytes_per_entry * trained(model)


def test_a_rollout_holds_every_completion_and_each_prompt_once(model):
    # 2 (keys, values) x 2 layers x 2 heads x 8 wide x 2 bytes = 128 bytes a token; 3 x (100 + 4 x 10) tokens
    assert plan(model).rollout["keys and values"] == 128 * 420


def test_for_certain_a_rollout_holds_the_shortest_prompt_and_a_token_of_its_completions(model):
    # the same 128 bytes, 20 + 4 tokens
    assert plan(model).least["keys and values"] == 128 * 24


def test_only_completion_tokens_have_logits(model):
    # 4 completions of 10 tokens, 64 logits each, 4 bytes, three of them at once
    assert plan(model).update["logits"] == 3 * 4 * 64 * 40


def test_drawing_tokens_can_take_more_than_reading_prompts(model):
    # reading: 2 bytes x (3 x 48 + 4 x 32) x 300 tokens; drawing: 30 bytes x 64 entries x 12 rows
    assert plan(model).rollout["activations (estimate)"] == max(163_200, 23_040)
    wide = tiny_model(vocabulary=1000).to(torch.bfloat16)
    assert plan(wide).rollout["activations (estimate)"] == 30 * 1000 * 12


def test_checkpointing_keeps_the_inputs_of_layers_and_two_of_them_whole():
    # 140 tokens of 2 bytes and 32 entries; 34 values in each of 4 layers, or in two and one input each of the four
    model = tiny_model(layers=4).to(torch.bfloat16)
    assert plan(model).update["activations (estimate)"] == 140 * 2 * 32 * 34 * 4
    assert plan(model, checkpointing=True).update["activations (estimate)"] == 140 * 2 * 32 * (34 * 2 + 4)


def test_a_model_that_computes_in_float32_needs_no_copies(model):
    parts = plan(model, compute=torch.float32)
    assert parts.rollout["trained weights in the compute type"] == parts.update["casts of trained weights"] == 0


def test_buckets_hold_the_gradients_again(model):
    with_buckets, without = plan(model, buckets=True).update, plan(model).update
    assert sum(with_buckets.values()) - sum(without.values()) == without["gradients"]


def test_the_peak_is_what_is_held_and_the_larger_stage(model):
    parts = plan(model)
    assert parts.peak == sum(parts.held.values()) + max(sum(parts.rollout.values()), sum(parts.update.values()))


def test_what_is_certain_takes_the_least_of_each_part():
    parts = MemoryPlan({"weights": 100.0}, {"cache": 50.0, "copies": 1.0}, {"gradients": 20.0}, {"cache": 5.0})
    # 100 + the larger of 5 + 1 and 20; at the peak the larger is 50 + 1
    assert (parts.certain, parts.peak) == (120.0, 151.0)


def test_division_over_processes_divides_what_it_says(model):
    half = plan(model, split={"weights": 2, "gradients": 2, "optimizer": 2}).held
    assert half == {name: value / 2 for name, value in plan(model).held.items()}


@pytest.mark.parametrize(
    ("stage", "fsdp", "weights", "gradients", "optimizer"),
    [(0, False, 1, 1, 1), (1, False, 1, 1, 4), (2, False, 1, 4, 4), (3, False, 4, 4, 4), (0, True, 4, 4, 4)],
)
def test_each_engine_divides_its_parts(stage, fsdp, weights, gradients, optimizer):
    expected = {"weights": weights, "gradients": gradients, "optimizer": optimizer}
    assert processes_per_part(4, stage, fsdp) == expected


@pytest.mark.parametrize(
    ("held", "least", "largest", "remedy"),
    [
        ({"frozen weights": 9e9}, {}, "frozen weights", "use several GPUs with --deepspeed zero3"),
        ({"reference": 9e9}, {}, "reference", "leave --ref_model out, or pass --beta 0"),
        ({}, {"keys and values": 9e9}, "keys and values", "lower --per_device_train_batch_size"),
        ({"optimizer state": 9e9}, {}, "optimizer state", "--optim adamw_torch_8bit"),
    ],
)
def test_what_cannot_fit_is_refused_with_a_remedy(held, least, largest, remedy):
    parts = MemoryPlan(held, dict.fromkeys(least, 99e9), {}, least)
    refuse_what_cannot_fit(parts, 9e9)
    with pytest.raises(
        UserError, match=f"needs 9.0 GB and the device has 8.9 GB, most of it for {largest}; .*{remedy}"
    ):
        refuse_what_cannot_fit(parts, 8.9e9)


def test_a_plan_is_announced_line_by_line(model, messages):
    parts = plan(model, reference=1e9)
    announce_plan(parts, torch.device("cpu"))
    assert [message.removeprefix("memory plan: ") for message in messages.messages] == parts.lines()
    assert parts.lines()[3].split() == ["reference", "1.000", "GB"]
    assert parts.lines()[-1].startswith("peak")


def test_a_run_that_may_fit_starts_with_a_warning(model, gpu_of, messages):
    parts = plan(model)
    gpu_of(parts.peak - 1)
    announce_plan(parts, GPU)
    assert "in its worst case the run needs" in messages.messages[-1]


def test_a_run_that_fits_in_its_worst_case_starts_without_a_warning(model, gpu_of, messages):
    gpu_of(plan(model).peak)
    announce_plan(plan(model), GPU)
    assert not any("worst case" in message for message in messages.messages)


def test_a_run_that_cannot_fit_does_not_start(model, gpu_of):
    gpu_of(plan(model).certain - 1)
    with pytest.raises(UserError, match="the run needs"):
        announce_plan(plan(model), GPU)


def test_weights_that_are_too_large_alone_are_refused_before_they_move(gpu_of):
    layer = nn.Linear(10, 10, bias=False)  # 400 bytes
    gpu_of(400)
    refuse_large_model(layer, GPU)
    gpu_of(399)
    with pytest.raises(UserError, match="most of it for frozen weights; use several GPUs with --deepspeed zero3"):
        refuse_large_model(layer, GPU)


def test_the_trainer_asks_before_it_moves_the_model(world, tmp_path, gpu_of):
    trainer = make_trainer(world, tmp_path / "run")
    gpu_of(1)
    with pytest.raises(UserError, match="most of it for frozen weights"):
        trainer._move_model_to_device(trainer.model, GPU)


def test_a_cpu_takes_every_model():
    refuse_large_model(nn.Linear(10, 10), torch.device("cpu"))


class Lengths:
    """Stand-in for a template: a prompt has as many tokens as its record has letters."""

    prompt_lengths = None

    def encode_prompt(self, record):
        return SimpleNamespace(input_ids=torch.zeros(len(record.messages[0]["content"])))


def records_of(*texts):
    return [SimpleNamespace(images=(), messages=[{"content": text}]) for text in texts]


def test_prompt_lengths_are_those_that_the_template_has_checked():
    template = Lengths()
    template.prompt_lengths = 3, 8
    assert prompt_lengths(PromptDataset(records_of("a"), template)) == (3, 8)


def test_without_a_check_the_records_with_least_and_most_text_are_encoded():
    assert prompt_lengths(PromptDataset(records_of("four", "a", "seventy"), Lengths())) == (1, 7)


def test_a_template_remembers_the_lengths_that_it_checks(world, tmp_path):
    trainer = make_trainer(world, tmp_path / "run")
    dataset, template = trainer.train_dataset, trainer.template
    template.check_prompts(dataset.records)
    lengths = [len(template.encode_prompt(record).input_ids) for record in dataset.records]
    assert template.prompt_lengths == (min(lengths), max(lengths))
    assert min(lengths) < max(lengths)


def test_grpo_plans_for_all_micro_batches_of_a_step_in_one_rollout(world, tmp_path):
    # 8 completions in groups of 4 are 2 prompts; 3 micro-batches of them are 6 of the 12 prompts there are
    trainer = make_trainer(world, tmp_path / "run", gradient_accumulation_steps=3)
    shortest, longest = prompt_lengths(trainer.train_dataset)
    assert trainer.largest_step() == Load(6, shortest, longest, 4, completion_tokens=10, prompts_per_update=2)


def test_grpo_plans_for_no_more_prompts_than_there_are(world, tmp_path):
    assert make_trainer(world, tmp_path / "run", gradient_accumulation_steps=7).largest_step().prompts == 12


def test_a_plan_of_grpo_counts_the_reference_and_the_optimizer_of_its_flags(world, tmp_path):
    trainer = make_trainer(world, tmp_path / "run", optim="sgd", beta=0.1)
    assert trainer.memory_plan().held["reference"] == 0  # before training begins
    trainer.reference = choose_reference(trainer.model, None)
    held = trainer.memory_plan().held
    assert held["reference"] == 4 * trained(trainer.model)  # the demo policy is stored in float32
    assert held["optimizer state"] == 0


def test_sft_plans_for_the_longest_solution_and_no_rollout(world, tmp_path):
    trainer = sft_runs.make_trainer(world, tmp_path / "run", per_device_train_batch_size=3, questions_per_row=2)
    # the first of the three solutions has the most characters
    longest = trainer.template.encode_completion(trainer.train_dataset.prompts.records[0].solution)
    load = trainer.largest_step()
    assert (load.prompts, load.group_size, load.completion_tokens) == (0, 2, len(longest))
    assert load.prompts_per_update == 3
    assert trainer.memory_plan().rollout == {}

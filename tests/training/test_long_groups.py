"""Training in sections and slices: the same run as in packed rows, chosen by the memory plan."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from swift.engine.long_groups import Passes
from swift.trainers.memory_plan import Load, plan_memory
from swift.trainers.rlhf_trainer.passes import candidates, choose_passes, fitting_passes, update_bytes
from tests.support.builders import TORCHRUN, rlhf_command, run_python, tiny_model
from tests.support.grpo_runs import make_trainer

WHOLE = {"weights": 1, "gradients": 1, "optimizer": 1}
LOAD = Load(
    prompts=1,
    shortest_prompt=20,
    longest_prompt=1000,
    group_size=8,
    completion_tokens=10,
    prompts_per_update=1,
    completions_per_update=8,
)
FIGURES = ("loss", "grad_norm", "kl", "entropy", "clip_ratio")


def figures(history: list[dict]) -> list[list[float]]:
    return [[entry[name] for name in FIGURES] for entry in history if "loss" in entry]


def rows(folder: str | Path) -> list[dict]:
    return [json.loads(line) for line in (Path(folder) / "completions.jsonl").read_text("utf-8").splitlines()]


@pytest.fixture(scope="module")
def in_rows(world, tmp_path_factory):
    """A run of three steps in packed rows, two micro-batches a step."""
    trainer = make_trainer(world, tmp_path_factory.mktemp("rows"), gradient_accumulation_steps=2)
    trainer.train()
    return trainer


def test_a_run_in_slices_is_the_run_in_packed_rows(world, tmp_path, in_rows):
    trainer = make_trainer(world, tmp_path, gradient_accumulation_steps=2, tokens_per_pass=7)
    trainer.train()
    assert trainer.passes == Passes(7, 7)
    for measured, expected in zip(figures(trainer.state.log_history), figures(in_rows.state.log_history), strict=True):
        assert measured == pytest.approx(expected, abs=1e-4, rel=1e-3)
    for mine, other in zip(rows(tmp_path), rows(in_rows.args.output_dir), strict=True):
        assert mine["token_ids"] == other["token_ids"]
        assert mine["per_token_logps"][0] == pytest.approx(other["per_token_logps"][0], abs=1e-3)


def test_off_policy_slices_are_off_policy_rows(world, tmp_path):
    flags = {"num_iterations": 2, "max_steps": 2, "save_steps": 2, "epsilon": 1e-4, "beta": 0.1}
    histories = []
    for tokens in (0, 7):
        trainer = make_trainer(world, tmp_path / str(tokens), tokens_per_pass=tokens, **flags)
        trainer.train()
        histories.append(figures(trainer.state.log_history))
    assert histories[0][1][FIGURES.index("clip_ratio")] > 0
    for measured, expected in zip(*histories, strict=True):
        assert measured == pytest.approx(expected, abs=1e-4, rel=1e-3)


def test_two_processes_average_the_gradients_of_slices(world, tmp_path, in_rows):
    """A micro-batch of one process holds the prompts that the single process takes in its two micro-batches."""
    command = rlhf_command(world, tmp_path / "run", tokens_per_pass=7)
    result = run_python("swift.cli.rlhf", *command, launcher=TORCHRUN, FREEZE_NON_VISION_PARAMS="1")
    assert result.returncode == 0, result.stderr
    state = json.loads((tmp_path / "run" / "checkpoint-3" / "trainer_state.json").read_text())
    for measured, expected in zip(figures(state["log_history"]), figures(in_rows.state.log_history), strict=True):
        assert measured == pytest.approx(expected, abs=1e-4, rel=1e-3)


def plan_of(load: Load):
    model = tiny_model()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".lora_" in name)
    return plan_memory(
        model, load, compute=torch.float32, optimizer="adamw", reference=0.0, checkpointing=False, split=WHOLE
    )


def test_candidates_shrink_completions_first_and_then_the_prompt():
    assert list(candidates(LOAD)) == [
        Passes(1000, 40),
        Passes(1000, 20),
        Passes(1000, 10),
        Passes(500, 500),
        Passes(256, 256),
    ]


def test_packed_rows_are_taken_if_they_fit():
    assert fitting_passes(LOAD, plan_of, update_bytes(plan_of(LOAD))) is None


def test_the_largest_passes_that_fit_are_taken():
    load = replace(LOAD, group_size=64, completions_per_update=64)
    chosen = Passes(1000, 160)
    capacity = update_bytes(plan_of(replace(load, passes=chosen)))
    assert capacity < update_bytes(plan_of(load))
    assert fitting_passes(load, plan_of, capacity) == chosen


def test_if_nothing_fits_the_lowest_peak_is_taken():
    load = replace(LOAD, longest_prompt=4000)
    assert fitting_passes(load, plan_of, 0.0) == Passes(256, 256)


def test_a_cpu_takes_packed_rows_unless_the_flag_says_otherwise():
    cpu = torch.device("cpu")
    assert choose_passes(None, LOAD, plan_of, cpu) is None
    assert choose_passes(0, LOAD, plan_of, cpu) is None
    assert choose_passes(300, LOAD, plan_of, cpu) == Passes(300, 300)

"""GRPO, SFT and evaluation of SmolVLM, LLaVA, Qwen2.5-VL and Gemma 3."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import evaluate
from swift.cli.rlhf import main as rlhf
from swift.cli.sft import main as sft
from swift.llm.arguments import ModelArguments
from swift.llm.checkpoint.load import load_policy
from swift.llm.policy import trainable_parameters
from swift.llm.trainable import choose_trainable
from tests.support.builders import rlhf_command
from tests.support.sft_runs import sft_command
from utils.freezing import freeze_non_vision


@pytest.fixture(scope="module")
def folder(other_model: Path) -> Path:
    return other_model


def test_a_fresh_lora_is_on_the_decoder_alone(folder):
    chosen = load_policy(folder)
    choose_trainable(chosen.model, ModelArguments(model="m", train_type="lora"))
    names = {name.split(".lora_")[0] for name in trainable_parameters(chosen.model)}
    assert len(names) == 2 * 7  # two layers of q, k, v, o, gate, up and down
    assert not any("vis" in name.split(".layers.")[0] for name in names)


def test_the_named_set_is_what_the_freezing_hook_trains(folder):
    named, hooked = load_policy(folder).model, load_policy(folder).model
    choose_trainable(named, ModelArguments(model="m", train_type="lora", trainable="vision-lora+head"))
    choose_trainable(hooked, ModelArguments(model="m", train_type="lora"))
    assert list(trainable_parameters(named)) == freeze_non_vision(hooked)


@pytest.fixture(scope="module")
def grpo_run(world, folder, tmp_path_factory) -> Path:
    """The checkpoint of one GRPO step on new adapters."""
    output = tmp_path_factory.mktemp("grpo") / "run"
    flags = {"train_type": "lora", "dynamic_sample": True, "vision_weights": True}
    assert rlhf(rlhf_command(world, output, model=folder, max_steps=1, **flags)) == 0
    return output / "checkpoint-1"


def test_grpo_takes_a_step(grpo_run, folder):
    state = json.loads((grpo_run / "trainer_state.json").read_text())["log_history"][0]
    assert state["grad_norm"] > 0
    assert np.isfinite(state["kl"])
    rows = [json.loads(line) for line in (grpo_run.parent / "completions.jsonl").read_text().splitlines()]
    assert len(rows) == 8
    assert all(len(row["per_token_logps"][0]) == len(row["raw_completion_tokens"][0]) for row in rows)
    assert all(len(row["per_token_vision_dependency"][0]) == len(row["token_ids"]) for row in rows)
    assert state["vision_dependency"] > 1e-6
    trained = load_policy(grpo_run).model.state_dict()
    before = load_policy(folder).model.state_dict()
    assert any(".lora_B." in name for name in trained)
    assert all(
        torch.equal(trained[name.replace(".base_layer", "")], value)
        for name, value in before.items()
        if name in trained
    )


def test_a_run_is_resumed_from_its_checkpoint(grpo_run, world, folder):
    command = rlhf_command(world, grpo_run.parent, model=folder, max_steps=2, train_type="lora")
    assert rlhf([*command, "--resume_from_checkpoint", "true", "--resume_changed", "true"]) == 0
    assert json.loads((grpo_run.parent / "checkpoint-2" / "trainer_state.json").read_text())["global_step"] == 2


def test_sft_takes_a_step_and_the_result_evaluates(grpo_run, world, folder, tmp_path):
    command = sft_command(world, tmp_path / "sft", model=folder, questions_per_row=2, max_steps=1)
    assert sft(command) == 0
    for checkpoint in (tmp_path / "sft", grpo_run):
        arguments = ["--model_path", str(checkpoint), "--annotation_file", str(world / "data" / "train.json")]
        limits = ["--max_samples", "4", "--max_new_tokens", "6", "--batch_size", "3", "--no_tqdm"]
        assert evaluate.main([*arguments, *limits, "--output_dir", str(tmp_path / "result")]) == 0
    documents = [json.loads(file.read_text()) for file in (tmp_path / "result").glob("*_results.json")]
    assert [document["num_samples"] for document in documents] == [4, 4]
    assert all(row["num_tokens"] > 0 for document in documents for row in document["results"])

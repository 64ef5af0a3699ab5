"""Runs whose model computes in bfloat16: every update arrives, checkpoints hold float32, resuming is exact."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from swift.cli.rlhf import main
from swift.llm.checkpoint.load import load_policy
from tests.support.builders import rlhf_command, run_python

STEPS = 12
RATES = (4e-6, 6e-5)


def train(world, output: Path, **flags) -> Path:
    """Run GRPO in this process and return its last checkpoint. The reward is one that random texts earn."""
    settings = {
        "reward_funcs": ["vowels"],
        "trainable": "vision-lora+head",
        "beta": 0.04,
        "lr_scheduler_type": "constant",
        "max_steps": STEPS,
        **flags,
    }
    assert main(rlhf_command(world, output, **settings)) == 0
    return output / f"checkpoint-{settings['max_steps']}"


def trained_values(checkpoint: Path) -> dict[str, torch.Tensor]:
    return load_file(checkpoint / "adapter_model.safetensors")


@pytest.fixture(scope="module")
def start(world):
    """The values that train, as the policy's folder has them, in bfloat16."""
    state = load_policy(world / "policy", dtype=torch.bfloat16).model.state_dict()
    return {
        f"base_model.model.{name.replace('.vision.', '.')}": value.float()
        for name, value in state.items()
        if ".lora_" in name or name == "lm_head.weight"
    }


@pytest.fixture(scope="module", params=RATES)
def updates(world, start, tmp_path_factory, request):
    """The change of every trained tensor over a run, in either type, from one seed."""
    changes = {}
    for dtype in ("float32", "bfloat16"):
        output = tmp_path_factory.mktemp("run") / dtype
        values = trained_values(train(world, output, torch_dtype=dtype, learning_rate=request.param))
        assert values.keys() == start.keys()
        if dtype == "float32":  # this run starts from values that were not rounded to bfloat16
            state = load_policy(world / "policy", dtype=torch.float32).model.state_dict()
            first = {f"base_model.model.{n.replace('.vision.', '.')}": v for n, v in state.items()}
        else:
            first = start
        changes[dtype] = {name: value - first[name] for name, value in values.items()}
    return changes


def test_nearly_every_entry_moves_in_either_type(updates):
    for change in updates.values():
        moved = sum(int((value != 0).sum()) for value in change.values())
        assert moved > 0.99 * sum(value.numel() for value in change.values())


def test_the_updates_are_of_one_size_in_either_type(updates):
    norms = {dtype: float(sum(v.square().sum() for v in change.values()) ** 0.5) for dtype, change in updates.items()}
    assert norms["bfloat16"] == pytest.approx(norms["float32"], rel=0.1)


def test_an_optimizer_without_moments_moves_nearly_every_entry_too(world, start, tmp_path):
    flags = {"torch_dtype": "bfloat16", "learning_rate": 4e-6, "max_steps": 4, "optim": "adafactor"}
    values = trained_values(train(world, tmp_path / "run", **flags))
    moved = sum(int((value != start[name]).sum()) for name, value in values.items())
    assert moved > 0.99 * sum(value.numel() for value in values.values())


def test_checkpoints_hold_float32_and_load_in_the_type_of_their_base(world, tmp_path):
    checkpoint = train(world, tmp_path / "run", torch_dtype="bfloat16", max_steps=1)
    assert {value.dtype for value in trained_values(checkpoint).values()} == {torch.float32}
    policy = load_policy(checkpoint, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in policy.model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("optimizer", ["adamw_torch_fused", "adafactor"])
def test_a_resumed_run_ends_with_the_same_bytes(world, tmp_path, optimizer):
    flags = {"torch_dtype": "bfloat16", "save_steps": 2, "learning_rate": 1e-3, "optim": optimizer}
    whole = train(world, tmp_path / "whole", max_steps=4, **flags)
    train(world, tmp_path / "cut", max_steps=4, **flags)
    shutil.rmtree(tmp_path / "cut" / "checkpoint-4")
    again = train(world, tmp_path / "cut", max_steps=4, resume_from_checkpoint="true", **flags)
    for name in ("adapter_model.safetensors", "optimizer.pt"):
        assert (again / name).read_bytes() == (whole / name).read_bytes()


def test_full_training_saves_a_folder_that_loads(world, tmp_path):
    checkpoint = train(world, tmp_path / "run", torch_dtype="bfloat16", trainable=".", train_type="full", max_steps=1)
    with torch.no_grad():
        assert load_policy(checkpoint).model(torch.arange(8, 20)[None]).logits.isfinite().all()


def test_float16_is_refused_in_one_line(world, tmp_path):
    command = rlhf_command(world, tmp_path / "run", torch_dtype="float16", trainable="vision-lora+head")
    process = run_python("swift.cli.rlhf", *command)
    assert process.returncode == 2
    assert "float16; pass --torch_dtype bfloat16 or float32" in process.stderr.splitlines()[-1]

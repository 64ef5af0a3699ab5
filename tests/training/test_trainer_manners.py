"""A trainer validates when it has data, keeps the best checkpoint, and notices damaged files and bad numbers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from evaluate import main as evaluate
from swift.cli.common import LOCK
from swift.cli.rlhf import main
from swift.llm.checkpoint.folders import resolve_checkpoint
from swift.trainers.finite import check_gradient, check_loss, check_weights
from swift.utils.errors import UserError
from swift.utils.locks import only_one
from swift.utils.run_folder import trainer_state
from tests.support.builders import rlhf_command

REWARD = """
from swift.plugin import orms

calls = 0


def first_best(completions, **columns):
    # every call earns less than the one before
    global calls
    calls += 1
    return [1 / calls + 0.01 * (len(text) % 7) for text in completions]


orms["first_best"] = first_best
orms["huge"] = lambda completions, **columns: [1e300] * len(completions)
"""


@pytest.fixture(scope="module")
def plugin(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("plugin") / "manners.py"
    path.write_text(REWARD)
    return path


@pytest.fixture
def train(world, plugin, tmp_path):
    """Run GRPO in this process on the folder ``tmp_path / "run"``; returns its exit status."""

    def run(**flags) -> int:
        settings = {
            "external_plugins": [world / "vowels.py", plugin],
            "reward_funcs": ["vowels"],
            "trainable": "vision-lora+head",
            "max_steps": 4,
            "save_steps": 2,
            **flags,
        }
        return main(rlhf_command(world, tmp_path / "run", **settings))

    return run


def history(run: Path, step: int = 4) -> list[dict]:
    return trainer_state(run / f"checkpoint-{step}")["log_history"]


def test_records_that_are_held_out_are_evaluated_without_a_strategy(train, tmp_path):
    assert train(split_dataset_ratio=0.3, eval_steps=1) == 0
    assert [entry["step"] for entry in history(tmp_path / "run") if "eval_reward" in entry] == [1, 2, 3, 4]


def test_the_last_step_is_evaluated_however_the_steps_fall(train, tmp_path):
    assert train(split_dataset_ratio=0.3, eval_steps=3) == 0
    assert [entry["step"] for entry in history(tmp_path / "run") if "eval_reward" in entry] == [3, 4]


def test_a_strategy_that_is_named_is_kept(train, tmp_path):
    assert train(split_dataset_ratio=0.3, eval_strategy="no") == 0
    assert not any("eval_reward" in entry for entry in history(tmp_path / "run"))


def test_the_best_checkpoint_by_reward_is_noted_and_evaluated(train, tmp_path):
    flags = {"reward_funcs": ["first_best"], "split_dataset_ratio": 0.3, "eval_steps": 2}
    assert train(load_best_model_at_end=True, save_total_limit=1, **flags) == 0
    run = tmp_path / "run"
    assert json.loads((run / "best.json").read_text())["checkpoint"] == "checkpoint-2"
    assert resolve_checkpoint(run) == run / "checkpoint-2"


@pytest.mark.parametrize("name", ["optimizer.pt", "adapter_model.safetensors"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(train, tmp_path, name, caplog):
    assert train() == 0
    file = tmp_path / "run" / "checkpoint-4" / name
    content = bytearray(file.read_bytes())
    content[-64:] = bytes(value ^ 255 for value in content[-64:])
    file.write_bytes(content)
    assert train(resume_from_checkpoint=True, resume_changed=True, max_steps=6) == 0
    assert "checkpoint-2 is resumed, because later ones are damaged" in caplog.text
    assert f"checkpoint-4: {name} differ from checksums.json" in caplog.text
    steps = [json.loads(line)["step"] for line in (tmp_path / "run" / "completions.jsonl").read_text().splitlines()]
    assert steps == [step for step in range(1, 7) for _ in range(8)]


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_checkpoint_that_lacks_a_file_is_refused_if_it_is_named(train, tmp_path, name, capsys):
    assert train(max_steps=2) == 0
    (tmp_path / "run" / "checkpoint-2" / name).unlink()
    assert train(resume_from_checkpoint=tmp_path / "run" / "checkpoint-2") == 2
    assert f"checkpoint-2: {name} missing; name an older checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("num_generations", 2), ("beta", 0.1), ("seed", 1), ("max_steps", 6),
        ("reward_funcs", "first_best"), ("learning_rate", 1e-3), ("temperature", 0.5), ("torch_dtype", "bfloat16"),
    ],
)  # fmt: skip
def test_a_run_is_not_resumed_with_another_flag(train, tmp_path, flag, value, capsys):
    assert train(max_steps=2) == 0
    before = (tmp_path / "run" / "args.json").read_bytes()
    assert train(**{"max_steps": 2, flag: value}, resume_from_checkpoint=True) == 2
    assert f"holds another run: --{flag} was " in capsys.readouterr().err
    assert (tmp_path / "run" / "args.json").read_bytes() == before


def test_a_run_is_not_resumed_with_other_prompts_per_step(train, capsys):
    assert train(max_steps=2) == 0
    assert train(max_steps=2, per_device_train_batch_size=16, resume_from_checkpoint=True) == 2
    assert "prompts_per_step was 2 and is now 4" in capsys.readouterr().err


def test_a_step_may_be_divided_in_another_way(train):
    assert train(max_steps=2) == 0
    division = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    assert train(max_steps=2, **division, resume_from_checkpoint=True) == 0


def test_a_run_is_not_resumed_in_another_environment(train, monkeypatch, capsys):
    assert train(max_steps=2) == 0
    monkeypatch.setenv("KG_TEXT", "all")
    assert train(max_steps=2, resume_from_checkpoint=True) == 2
    assert "environment was {} and is now {'KG_TEXT': 'all'}" in capsys.readouterr().err


def test_flags_that_only_watch_may_differ(train):
    assert train() == 0
    assert train(resume_from_checkpoint=True, disable_tqdm=True, save_total_limit=5) == 0


def test_a_run_is_not_resumed_on_other_data(train, world, tmp_path, capsys):
    data = tmp_path / "data" / "train.json"
    shutil.copytree(world / "data", data.parent)
    assert train(dataset=data) == 0
    data.write_text(json.dumps(json.loads(data.read_text())[:-1]))
    assert train(dataset=data, resume_from_checkpoint=True) == 2
    assert f"the contents of --dataset ['{data}'] have changed" in capsys.readouterr().err


def test_a_run_is_not_resumed_on_other_base_weights(train, world, tmp_path, capsys):
    policy = shutil.copytree(world / "policy", tmp_path / "policy")
    assert train(model=policy) == 0
    weights = policy / "model.safetensors"
    save_file({name: value + 1e-3 for name, value in load_file(weights).items()}, weights, {"format": "pt"})
    assert train(model=policy, resume_from_checkpoint=True) == 2
    assert "the contents of --model" in capsys.readouterr().err


def test_a_change_that_is_allowed_is_noted(train, tmp_path, caplog):
    assert train() == 0
    assert train(resume_from_checkpoint=True, resume_changed=True, max_steps=6) == 0
    change = "--max_steps was 4 and is now 6"
    assert f"resumed although {change}" in caplog.text
    assert json.loads((tmp_path / "run" / "args.json").read_text())["changes"] == [change]


def test_a_run_folder_that_is_in_use_is_refused(train, tmp_path, capsys):
    with only_one(tmp_path / "run" / LOCK, "busy"):
        assert train() == 2
    assert "is in use by a run that has not ended" in capsys.readouterr().err


def test_a_reward_too_large_for_float32_is_refused(train, capsys):
    assert train(reward_funcs=["huge"]) == 2
    assert "reward 'huge' returned 1e+300 for completion 0; return a finite number up to" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "value"),
    [("learning_rate", "inf"), ("beta", "inf"), ("weight_decay", "nan"), ("reward_weights", "nan")],
)
def test_flags_that_are_not_finite_are_refused(train, flag, value, capsys):
    assert train(**{flag: value}) == 2
    assert f"--{flag} {value} must be a finite number" in capsys.readouterr().err


def test_gradients_that_are_not_finite_stop_the_run_with_their_groups_on_disk(train, tmp_path, capsys):
    """A KL weight of 1e38 overflows float32."""
    assert train(beta=1e38, learning_rate=1e-2, save_steps=1) == 2
    message = capsys.readouterr().err
    evidence = next((tmp_path / "run").glob("not_finite_step*_process0.jsonl"))
    assert f"is inf, its groups are in {evidence}; lower --learning_rate or --beta" in message
    assert len(evidence.read_text().splitlines()) == 8


def test_weights_that_diverge_are_one_line(train, capsys):
    assert train(learning_rate=1e30, max_grad_norm=0) == 2
    assert "error: " in capsys.readouterr().err


def test_a_checkpoint_of_nan_is_refused_by_evaluation(world, train, tmp_path, capsys):
    assert train(max_steps=2) == 0
    checkpoint = tmp_path / "run" / "checkpoint-2"
    file = checkpoint / "adapter_model.safetensors"
    save_file({name: value * float("nan") for name, value in load_file(file).items()}, file, {"format": "pt"})
    annotations = tmp_path / "questions.json"
    annotations.write_text(json.dumps([{"question": "Is it?", "answer": ["yes"], "image_ids": ["000"], "idx": 0}]))
    command = ["--model_path", checkpoint, "--annotation_file", annotations, "--img_root", world / "data" / "images"]
    assert evaluate([*map(str, command), "--output_dir", str(tmp_path / "eval"), "--no_tqdm"]) == 2
    assert "the policy computes NaN: its weights are damaged or diverged" in capsys.readouterr().err


# The checks of numbers themselves

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_a_loss_that_is_not_finite_names_its_step_and_evidence(value):
    with pytest.raises(UserError, match=r"step 7: the loss is (nan|-?inf), see group\.json; lower --learning_rate"):
        check_loss(torch.tensor(value), 7, lambda: ", see group.json")


@pytest.mark.parametrize("norm", [NAN, INF, torch.tensor(INF)])
def test_gradients_that_are_not_finite_are_refused(norm):
    with pytest.raises(UserError, match=r"step 3: the norm of the gradients is (nan|inf)"):
        check_gradient(norm, 3)


def test_weights_that_are_not_finite_are_named():
    state = {"good": torch.ones(2), "ids": torch.arange(3), "bad": torch.tensor([1.0, INF], dtype=torch.bfloat16)}
    with pytest.raises(UserError, match=r"checkpoint-4: 1 tensors hold values that are not finite, e\.g\. bad"):
        check_weights(state, "checkpoint-4")


def test_finite_values_pass():
    check_loss(torch.tensor(3e38), 1)
    check_gradient(None, 1)
    check_gradient(0.0, 1)
    check_weights({"a": torch.zeros(3, dtype=torch.bfloat16)}, "here")

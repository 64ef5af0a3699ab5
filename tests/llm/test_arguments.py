"""Flags: the published launcher's flags work, and each mistake is one line before any data or model is read."""

from __future__ import annotations

import logging
import random
import shlex
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import TrainerState

from swift.llm.arguments import parse_rlhf_args, parse_sft_args
from swift.utils.errors import UserError
from tests.support.builders import PUBLISHED_FLAGS


@pytest.fixture
def base(tmp_path) -> str:
    return f"--model m --dataset d.json --reward_funcs a b --output_dir {tmp_path}/run"


def parse(text: str):
    return parse_rlhf_args(shlex.split(text))


def message_of(text: str) -> str:
    with pytest.raises(UserError) as caught:
        parse(text)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_published_launcher_parses_to_what_it_says(tmp_path):
    model, data, training = parse(f"{PUBLISHED_FLAGS} --output_dir {tmp_path}/run")
    assert (model.model, model.ref_model, model.torch_dtype, model.train_type) == ("DIR", "DIR", "bfloat16", "dummy")
    assert (model.attn_impl, model.model_kwargs) == ("flash_attn", {"device_map": None})
    assert (data.dataset, data.val_dataset, data.dynamic_hd) == (["one.json", "two.json"], [], None)
    assert (training.reward_funcs, training.reward_weights) == (["external_r1v_acc", "external_kg_jac"], [1.0, 1.0])
    assert training.gradient_checkpointing_kwargs == {"use_reentrant": False}
    assert (training.external_plugins, training.max_resample_times) == (["plugin.py"], 4)
    assert training.do_train is training.dynamic_sample is training.log_completions is True
    assert training.save_only_model is training.remove_unused_columns is False


def test_defaults_are_the_published_ones(base):
    _, _, training = parse(base)
    assert (training.learning_rate, training.num_generations, training.beta, training.epsilon) == (6e-5, 8, 0.5, 0.2)
    assert (training.temperature, training.max_completion_length, training.num_train_epochs) == (0.9, 256, 1)
    assert (training.top_p, training.top_k, training.min_group_std, training.report_to) == (1.0, 0, 0.06, [])


@pytest.mark.parametrize(
    ("flags", "steps"), [("", 10), ("--warmup_ratio 0.2", 20), ("--warmup_ratio 0", 0), ("--warmup_steps 7", 7)]
)
def test_warmup_ratio_is_a_share_of_100_steps(base, flags, steps):
    assert parse(f"{base} {flags}")[2].get_warmup_steps(100) == steps


def test_kebab_snake_and_equals_spellings_agree(base):
    _, _, training = parse(f"{base} --num-generations=4 --max-completion-length 9 --no-log-completions")
    assert (training.num_generations, training.max_completion_length, training.log_completions) == (4, 9, False)


@pytest.mark.parametrize(("text", "value"), [("", True), ("true", True), ("True", True), ("1", True), ("false", False)])
def test_boolean_flags_stand_bare_or_with_a_value(base, text, value):
    _, data, training = parse(
        f"{base} --dynamic_sample {text} --ddp_find_unused_parameters {text} --check_images {text}"
    )
    assert training.dynamic_sample is training.ddp_find_unused_parameters is data.check_images is value


def test_an_empty_shell_variable_leaves_a_list_at_its_default(base):
    assert parse(f"{base} --reward_weights --external_plugins")[2].reward_weights == [1.0, 1.0]


def test_sft_takes_the_shared_flags_and_refuses_those_of_grpo(tmp_path):
    common = ["--model", "m", "--dataset", "d", "--output_dir", str(tmp_path / "run")]
    assert parse_sft_args([*common, "--per_device_train_batch_size", "3"])[2].per_device_train_batch_size == 3
    with pytest.raises(UserError, match="unknown flag --reward_funcs"):
        parse_sft_args([*common, "--reward_funcs", "a"])


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--learning_rat 1", "unknown flag --learning_rat; the nearest known one is --learning_rate"),
        ("--num-generation 4", "unknown flag --num_generation; the nearest known one is --num_generations"),
        ("--save_st 4", "unknown flag --save_st; the nearest"),
        ("--beta x", "flag --beta: invalid float value: 'x'"),
        ("--do_train maybe", "flag --do_train"),
        ("--rlhf_type dpo", "--rlhf_type: invalid choice: 'dpo'"),
        ("stray", "unexpected value 'stray'"),
        ("--dataset", "--dataset names no file"),
        ("--num_generations 1", "--num_generations 1 must be 2 or more"),
        ("--num_generations 0", "--num_generations 0 must be 2 or more"),
        ("--reward_weights 1", "--reward_weights has 1 values for 2 rewards"),
        ("--reward_funcs", "--reward_funcs names no reward"),
        ("--num_iterations 3 --save_steps 10", "--save_steps 10 must be a multiple of --num_iterations 3"),
        ("--temperature 0", "--temperature 0.0 must be above 0"),
        ("--top_p 1.1", "--top_p 1.1 must be above 0 and at most 1"),
        ("--top_k -1", "--top_k -1 must be 0 or more"),
        ("--beta -1", "--beta -1.0 must be 0 or more"),
        ("--beta nan", "--beta nan must be a finite number"),
        ("--warmup_ratio 5", "--warmup_ratio 5.0 must be in 0..1"),
        ("--model_kwargs '{oops'", "--model_kwargs is not JSON"),
        ("--model_kwargs 3", "--model_kwargs must be a JSON object"),
        ('--model_kwargs \'{"device_map": "auto"}\'', 'only {"device_map": null} is'),
        ("--gradient_checkpointing_kwargs '{oops'", "--gradient_checkpointing_kwargs is not JSON"),
        ("--trainable '('", "--trainable '(' is not a regular expression"),
        ("--dynamic_hd 0", "--dynamic_hd 0 must be 1 or more"),
        ("--split_dataset_ratio 1", "--split_dataset_ratio 1.0 must be in 0..1"),
        ("--split_dataset_ratio 0.1 --val_dataset v.json", "exclude each other"),
        ("--report_to carrier_pigeon", "--report_to carrier_pigeon: no such tracker"),
        ("--resume_from_checkpoint nowhere", "--resume_from_checkpoint nowhere has no complete trainer_state.json"),
    ],
)
def test_a_mistake_is_one_line_that_names_its_flag(base, flags, words):
    assert words in message_of(f"{base} {flags}")


def test_missing_required_flags_are_named():
    assert "--dataset" in message_of("--model m")
    assert "--model" in message_of("--dataset d")


def test_flags_of_ms_swift_without_effect_are_accepted_and_reported(base, caplog):
    logging.getLogger("chex").addHandler(caplog.handler)
    parse(f"{base} --template phi4_multimodal --vllm_device auto --lazy_tokenize")
    logging.getLogger("chex").removeHandler(caplog.handler)
    (line,) = caplog.messages
    assert all(flag in line for flag in ("--template", "--vllm_device", "--lazy_tokenize"))


def checkpoint(folder, step: int, state: str | None = None) -> None:
    """The smallest checkpoint that can be resumed. ``state`` is the text of its trainer_state.json."""
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    save_file({"weight": torch.zeros(1)}, path / "model.safetensors")
    torch.save({"state": {}, "param_groups": []}, path / "optimizer.pt")
    torch.save({"last_epoch": step}, path / "scheduler.pt")
    generators = {"python": random.getstate(), "numpy": np.random.get_state(), "cpu": torch.get_rng_state()}
    torch.save(generators, path / "rng_state.pth")
    TrainerState(global_step=step, max_steps=20).save_to_json(path / "trainer_state.json")
    if state is not None:
        (path / "trainer_state.json").write_text(state)


@pytest.mark.parametrize("trace", ["args.json", "checkpoint-5"])
def test_a_folder_that_holds_another_run_is_refused(base, tmp_path, trace):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / trace).mkdir()
    message = message_of(base)
    assert "holds another run" in message
    assert "--resume_from_checkpoint true" in message
    assert parse(f"{base} --overwrite_output_dir")[2].overwrite_output_dir


def test_an_empty_output_folder_is_taken(base, tmp_path):
    (tmp_path / "run").mkdir()
    assert parse(base)[2].resume_from_checkpoint is None


@pytest.mark.parametrize("value", ["", "true"])
def test_resume_takes_the_newest_checkpoint_that_was_finished(base, tmp_path, value):
    checkpoint(tmp_path / "run", 9)
    checkpoint(tmp_path / "run", 10)
    checkpoint(tmp_path / "run", 11, state='{"cut')
    _, _, training = parse(f"{base} --resume_from_checkpoint {value}")
    assert training.resume_from_checkpoint == str(tmp_path / "run" / "checkpoint-10")


def test_resume_by_name_takes_that_checkpoint(base, tmp_path):
    checkpoint(tmp_path / "old", 3)
    path = str(tmp_path / "old" / "checkpoint-3")
    assert parse(f"{base} --resume_from_checkpoint {path}")[2].resume_from_checkpoint == path


def test_resume_without_the_optimizer_is_refused(base, tmp_path):
    checkpoint(tmp_path / "run", 3)
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        (tmp_path / "run" / "checkpoint-3" / name).unlink()
    message = message_of(f"{base} --resume_from_checkpoint true")
    assert "checkpoint-3" in message
    assert "--save_only_model" in message
    assert "as --model" in message


def test_resume_before_the_first_checkpoint_starts_from_the_beginning(base, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "args.json").write_text("{}")
    assert parse(f"{base} --resume_from_checkpoint true")[2].resume_from_checkpoint is None


def test_help_shows_our_flags_once(base, capsys):
    with pytest.raises(SystemExit) as caught:
        parse("--help")
    shown = capsys.readouterr().out
    assert caught.value.code == 0
    assert shown.count("--num_generations INT") == 1
    assert "--adam_beta1" not in shown
    assert "every other flag of transformers.TrainingArguments" in shown


def test_flags_are_judged_before_any_model_code_is_loaded():
    code = "import sys, swift.llm.arguments; print([name for name in sys.modules if 'modeling_phi4' in name])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"

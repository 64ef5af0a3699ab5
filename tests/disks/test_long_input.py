"""Records of a megabyte among good ones: they are named before training, left out or cut, and nobody waits for them."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

import evaluate
import evaluate_token_prob
from swift.cli import rlhf, sft
from swift.llm.checkpoint.load import load_policy
from swift.llm.dataset import Record
from swift.llm.policy import context_window
from swift.llm.template.choose import template_for
from swift.utils.errors import UserError
from tests.support.sft_runs import sft_command
from tools import ask

WINDOW = 2048  # of the tiny policy
MEGABYTE = "Is there a pleural effusion? " * 35_000


@pytest.fixture
def data(world, tmp_path):
    """A function that writes records of which one has a changed field, and gives the file."""

    def write(**changes: object) -> Path:
        rows = json.loads((world / "data" / "train.json").read_text())
        rows[1] |= changes
        path = world / "data" / f"{tmp_path.name}.json"
        path.write_text(json.dumps(rows))
        return path

    return write


def question(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def rlhf_command(world: Path, output: Path, *more: object) -> list[str]:
    flags = ["--model", world / "policy", "--external_plugins", "plugin.py", "--reward_funcs", "external_r1v_acc"]
    flags += ["--output_dir", output, "--use_cpu", "true", "--max_steps", 1, "--num_generations", 2]
    return [*map(str, [*flags, "--per_device_train_batch_size", 2, "--max_completion_length", 4, *more])]


@pytest.mark.parametrize(
    "changes",
    [
        {"messages": question(MEGABYTE)},
        {"messages": [{"role": "system", "content": MEGABYTE}, *question("Edema?")]},
        {"messages": question("x" * 1_000_000)},
        {"images": ["001.png"] * 1000},
    ],
)
def test_a_prompt_beyond_the_window_is_named_before_training(world, data, tmp_path, capsys, changes):
    """It was 260 GB, or minutes of silence."""
    path, began = data(**changes), time.perf_counter()
    assert rlhf.main(rlhf_command(world, tmp_path / "run", "--dataset", path)) == 2
    assert time.perf_counter() - began < 20
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"error: {path} record 1: the prompt has ")
    assert f"over the {WINDOW} that the model can read" in line
    assert "--on_error skip" in line
    assert not (tmp_path / "run" / "args.json").exists()


def test_it_is_left_out_by_choice_and_training_goes_on(world, data, tmp_path):
    path = data(messages=question(MEGABYTE))
    assert rlhf.main(rlhf_command(world, tmp_path / "run", "--dataset", path, "--on_error", "skip")) == 0
    assert json.loads((tmp_path / "run" / "args.json").read_text())["skipped"]["count"] == 1


def test_it_is_cut_to_the_window_if_only_a_strategy_is_given(world, data, tmp_path, caplog):
    path = data(messages=question(MEGABYTE))
    words = ["--dataset", path, "--truncation_strategy", "left"]
    assert rlhf.main(rlhf_command(world, tmp_path / "run", *words)) == 0
    assert f"1 of 12 prompts were over --max_length {WINDOW - 4} and are cut at the left" in caplog.text


def test_a_solution_beyond_the_window_is_named_where_it_is_learned(world, data, tmp_path, capsys):
    path = data(solution=f"<think>{MEGABYTE}</think><answer>yes</answer>")
    assert sft.main(sft_command(world, tmp_path / "run", dataset=path)) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert f"{path} record 1: the prompt has " in line
    assert "and its answer up to" in line
    assert rlhf.main(rlhf_command(world, tmp_path / "grpo", "--dataset", path)) == 0  # it is only compared there


def test_a_completion_longer_than_the_window_is_refused(world, tmp_path, capsys):
    words = ["--dataset", world / "data" / "train.json", "--max_completion_length", WINDOW]
    assert rlhf.main(rlhf_command(world, tmp_path / "run", *words)) == 2
    assert f"an answer of {WINDOW} tokens is more than" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("given", [False, True])
def test_an_evaluation_names_it_and_skips_it_by_choice(world, data, tmp_path, capsys, given):
    changes = {"explanation": MEGABYTE, "solution": ""} if given else {"messages": question(MEGABYTE)}
    main = evaluate_token_prob.main if given else evaluate.main
    words = ["--model_path", world / "policy", "--annotation_file", data(**changes), "--output_dir", tmp_path / "out"]
    words += ["--max_new_tokens", 2, "--max_samples", 3, *(["--given", "explanation"] if given else [])]
    words = [*map(str, words)]
    assert main(words) == 2
    assert "record 1: the prompt has " in capsys.readouterr().err.splitlines()[-1]
    assert main([*words, "--on_error", "skip"]) == 0
    assert "2 questions about" in capsys.readouterr().out


def test_a_question_on_the_command_line_is_held_against_the_window_too(world, capsys):
    picture = world / "data" / "images" / "000.png"
    assert ask.main([str(world / "policy"), str(picture), MEGABYTE]) == 2
    assert "question 0: the prompt has " in capsys.readouterr().err.splitlines()[-1]


def test_a_text_that_no_tokens_could_make_short_is_refused_at_once(world):
    template = template_for(load_policy(world / "policy"))
    record = Record((), tuple(question("Is there an effusion? " * 5_000_000)), None, {}, "record 7")
    began = time.perf_counter()
    with pytest.raises(UserError, match="record 7: the prompt has at least"):
        template.check_prompts([record])
    assert time.perf_counter() - began < 2  # its tokens would take a minute to count


def test_the_window_is_read_from_a_configuration_that_stretches_it(world):
    config = load_policy(world / "policy").model.config
    model = type("Model", (), {"config": config})
    assert context_window(model) == WINDOW
    config.rope_parameters = config.rope_parameters | {"factor": 4.0, "original_max_position_embeddings": WINDOW}
    assert context_window(model) == 4 * WINDOW
    config.max_position_embeddings = -1
    assert context_window(model) is None

"""A GRPO run that is killed or stopped and resumed gives the numbers of an undisturbed run."""

from __future__ import annotations

import json
import logging
import shutil
import signal
from pathlib import Path

import pytest
import torch

from swift.cli.rlhf import main
from swift.utils.run_folder import finished_step, newest_checkpoint
from tests.support.builders import rlhf_command, run_python

# Two of twelve prompts per step: an epoch is six steps, so nine steps reach into the second.
STEPS = 9
KILLED_IN, STOPPED_IN = 6, 7

# The reward is random, so a run whose generators are not restored gets other rewards. In its call number STOP_AT (there
# is one per step) it sends the signal STOP_BY to its own process, which no outside timer could do so exactly.
NOISY_PLUGIN = """
import os, random
from swift.plugin import ORM, orms


class Noisy(ORM):
    def __init__(self):
        self.calls = 0

    def __call__(self, completions, **columns):
        self.calls += 1
        if os.environ.get("STOP_AT") == str(self.calls):
            for _ in range(int(os.environ.get("STOP_TIMES", 1))):
                os.kill(os.getpid(), int(os.environ["STOP_BY"]))
        return [text.count("a") + random.random() for text in completions]


orms["noisy"] = Noisy
"""


@pytest.fixture(scope="module")
def command(world, tmp_path_factory):
    """Flags of the run, for an output folder."""
    plugin = tmp_path_factory.mktemp("plugin") / "noisy.py"
    plugin.write_text(NOISY_PLUGIN)
    settings = {"external_plugins": plugin, "reward_funcs": "noisy", "max_steps": STEPS, "save_steps": 2}
    return lambda output, **flags: rlhf_command(world, output, **settings | flags)


@pytest.fixture(scope="module")
def whole(command, tmp_path_factory) -> Path:
    """The folder of an undisturbed run."""
    output = tmp_path_factory.mktemp("whole") / "run"
    assert main(command(output)) == 0
    return output


@pytest.fixture(scope="module")
def killed(command, tmp_path_factory) -> Path:
    """The folder of a run killed while it sampled step 6. checkpoint-4 is complete, and step 5 is logged."""
    output = tmp_path_factory.mktemp("killed") / "run"
    process = run_python("swift.cli.rlhf", *command(output), STOP_AT=str(KILLED_IN), STOP_BY=str(int(signal.SIGKILL)))
    assert process.returncode == -signal.SIGKILL, process.stderr
    return output


def losses(checkpoint: Path) -> list[float]:
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    return [entry["loss"] for entry in state["log_history"] if "loss" in entry]


def assert_same_run(run: Path, expected: Path, steps: int = STEPS) -> None:
    """Weights, optimizer, schedule, generators, completions and losses, to the last bit."""
    assert (run / "completions.jsonl").read_text() == (expected / "completions.jsonl").read_text()
    checkpoints = [folder / f"checkpoint-{steps}" for folder in (run, expected)]
    losses_of_run, expected_losses = map(losses, checkpoints)
    assert losses_of_run == expected_losses
    assert len(losses_of_run) == steps
    weights, expected_weights = ((folder / "adapter_model.safetensors").read_bytes() for folder in checkpoints)
    assert weights == expected_weights
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        # numpy's generator state, which is not read with weights_only
        states = [torch.load(folder / name, weights_only=False) for folder in checkpoints]
        torch.testing.assert_close(*map(tensors_and_numbers, states), rtol=0, atol=0)


def tensors_and_numbers(value: object) -> object:
    """``value`` without texts and Nones, which assert_close does not compare."""
    if isinstance(value, dict):
        return {key: tensors_and_numbers(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [tensors_and_numbers(item) for item in value]
    return 0 if value is None or isinstance(value, str) else value


def test_the_killed_run_had_gone_past_its_last_checkpoint(killed):
    """A resume must remove the rows of step 5, which came after the checkpoint."""
    rows = [json.loads(line) for line in (killed / "completions.jsonl").read_text().splitlines()]
    assert max(row["step"] for row in rows) == KILLED_IN - 1
    assert sorted(path.name for path in killed.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-4"]


@pytest.mark.parametrize("checkpoint", ["true", "{run}/checkpoint-4/"])
def test_a_killed_run_resumes_to_the_same_numbers(command, killed, whole, tmp_path, checkpoint):
    shutil.copytree(killed, tmp_path / "run")
    flag = checkpoint.format(run=tmp_path / "run")
    assert main(command(tmp_path / "run", resume_from_checkpoint=flag)) == 0
    assert_same_run(tmp_path / "run", whole)


@pytest.mark.parametrize("state", [None, '{"global_step": 5, "log_hist'], ids=["missing", "cut"])
def test_a_half_written_checkpoint_is_passed_over(command, killed, whole, tmp_path, state):
    run = tmp_path / "run"
    shutil.copytree(killed, run)
    newest = run / "checkpoint-5"
    shutil.copytree(run / "checkpoint-4", newest)
    (newest / "trainer_state.json").unlink()
    (newest / "adapter_model.safetensors").write_bytes(b"half")
    if state is not None:
        (newest / "trainer_state.json").write_text(state)
    assert main(command(run, resume_from_checkpoint=True)) == 0
    assert_same_run(run, whole)


@pytest.fixture
def send(monkeypatch):
    """Make the next run send itself a signal in a call of its reward."""

    def arm(number: int, call: int, times: int = 1) -> None:
        for name, value in {"STOP_BY": int(number), "STOP_AT": call, "STOP_TIMES": times}.items():
            monkeypatch.setenv(name, str(value))

    arm.off = lambda: monkeypatch.delenv("STOP_AT")
    return arm


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_saves_the_step_it_reached_and_resumes(command, whole, tmp_path, send, caplog, number):
    logging.getLogger("chex").addHandler(caplog.handler)
    send(number, STOPPED_IN)
    assert main(command(tmp_path / "run")) == 130
    assert finished_step(tmp_path / "run" / f"checkpoint-{STOPPED_IN}") == STOPPED_IN
    assert f"resume with --resume_from_checkpoint true --output_dir {tmp_path / 'run'}" in caplog.messages[-1]
    send.off()
    assert main(command(tmp_path / "run", resume_from_checkpoint=True)) == 0
    assert_same_run(tmp_path / "run", whole)


def test_a_stop_waits_until_the_rollouts_are_used_up(command, tmp_path, send):
    """Two steps use each rollout, and the signal comes while the rollout of steps 3 and 4 is scored. A checkpoint after
    step 3 would lose that rollout."""
    flags = {"num_iterations": 2, "max_steps": 6}
    assert main(command(tmp_path / "whole", **flags)) == 0
    send(signal.SIGINT, 2)
    assert main(command(tmp_path / "run", **flags)) == 130
    assert newest_checkpoint(tmp_path / "run").name == "checkpoint-4"
    send.off()
    assert main(command(tmp_path / "run", resume_from_checkpoint=True, **flags)) == 0
    assert_same_run(tmp_path / "run", tmp_path / "whole", steps=6)


def test_a_second_signal_stops_at_once(command, tmp_path, send, capsys):
    send(signal.SIGINT, 3, times=2)
    assert main(command(tmp_path / "run")) == 130
    assert newest_checkpoint(tmp_path / "run").name == "checkpoint-2"
    assert capsys.readouterr().err.splitlines()[-1] == "error: interrupted"


def test_a_finished_run_stays_as_it_is(command, whole, tmp_path):
    """Nine steps end within an epoch. When resumed there, transformers' Trainer would make a tenth step."""
    shutil.copytree(whole, tmp_path / "run")
    assert main(command(tmp_path / "run", resume_from_checkpoint=True)) == 0
    assert newest_checkpoint(tmp_path / "run").name == f"checkpoint-{STEPS}"
    assert_same_run(tmp_path / "run", whole)

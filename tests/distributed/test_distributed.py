"""Two processes over gloo compute what one does: same groups, same losses, one writer, one step to stop at."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from safetensors.torch import load_file

from swift.utils.run_folder import newest_checkpoint
from tests.support.builders import ROOT, TORCHRUN, rlhf_command, run_python
from tests.support.grpo_runs import make_trainer

# Four of twelve prompts per step: an epoch is three steps, so five steps reach into the second.
STEPS, GROUP, PROMPTS = 5, 4, 4

# A reward that random texts earn. The process of rank STOP_RANK, and no other, sends itself Ctrl-C in step 2.
PLUGIN = """
import os, signal
from swift.plugin import ORM, orms


class Stopping(ORM):
    def __init__(self):
        self.calls = 0

    def __call__(self, completions, **columns):
        self.calls += 1
        if self.calls == 2 and os.environ.get("STOP_RANK", "none") == os.environ.get("RANK"):
            os.kill(os.getpid(), signal.SIGINT)
        return [sum(text.count(vowel) for vowel in "aeiou") / (len(text) + 1) for text in completions]


orms["stopping"] = Stopping
"""


@pytest.fixture(scope="module")
def flags(world, tmp_path_factory) -> dict[str, object]:
    """Two processes share one validation question, so that one of them has none."""
    folder = tmp_path_factory.mktemp("plugin")
    plugin = folder / "stopping.py"
    plugin.write_text(PLUGIN)
    validation = folder / "validation.json"
    validation.write_text(json.dumps(json.loads((world / "data" / "train.json").read_text())[:1]))
    return {
        "val_dataset": validation,
        "image_root": world / "data" / "images",
        "eval_strategy": "steps",
        "eval_steps": STEPS,
        "external_plugins": [ROOT / "plugin.py", plugin],
        "reward_funcs": ["external_r1v_acc", "external_kg_jac", "stopping"],
        "max_steps": STEPS,
    }


@pytest.fixture(scope="module")
def launch(world, flags):
    """Start the run in ``output`` on two processes."""

    def start(output: Path, environment: dict[str, str] | None = None, **more: object) -> CompletedProcess[str]:
        command = rlhf_command(world, output, per_device_train_batch_size=PROMPTS * GROUP // 2, **flags | more)
        environment = {"FREEZE_NON_VISION_PARAMS": "1", **(environment or {})}
        return run_python("swift.cli.rlhf", *command, launcher=TORCHRUN, **environment)

    return start


@pytest.fixture(scope="module")
def single(world, flags, tmp_path_factory) -> Path:
    """The folder of the run on one process, with the parameters frozen by hand rather than by the hook."""
    output = tmp_path_factory.mktemp("single") / "run"
    make_trainer(world, output, per_device_train_batch_size=PROMPTS * GROUP, **flags).train()
    return output


@pytest.fixture(scope="module")
def double(launch, tmp_path_factory) -> tuple[Path, str]:
    """The folder of the run on two processes, and its log."""
    output = tmp_path_factory.mktemp("double") / "run"
    process = launch(output)
    assert process.returncode == 0, process.stderr
    return output, process.stderr


def log_history(run: Path) -> list[dict]:
    history = json.loads((run / f"checkpoint-{STEPS}" / "trainer_state.json").read_text())["log_history"]
    return [entry for entry in history if "loss" in entry]


def rows(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "completions.jsonl").read_text().splitlines()]


def test_every_step_has_the_figures_of_a_single_process(single, double):
    expected, shared = log_history(single), log_history(double[0])
    assert len(expected) == len(shared) == STEPS
    for of_one, of_two in zip(expected, shared, strict=True):
        assert of_one.keys() == of_two.keys()
        for name in of_one.keys() - {name for name in of_one if name.startswith("seconds/")}:
            assert of_two[name] == pytest.approx(of_one[name], abs=1e-4), (of_one["step"], name)


def test_a_process_without_a_validation_question_takes_part(single, double):
    """It used to have no figures to gather, and the other process waited for it."""

    def validation(run: Path) -> dict:
        state = json.loads((run / f"checkpoint-{STEPS}" / "trainer_state.json").read_text())
        (entry,) = (entry for entry in state["log_history"] if "eval_reward" in entry)
        return entry

    expected = validation(single)
    assert expected["eval_completion_length"] >= 1
    assert validation(double[0]) == pytest.approx(expected, abs=1e-4)


def test_final_weights_are_those_of_a_single_process(single, double):
    expected, shared = (
        load_file(run / f"checkpoint-{STEPS}" / "adapter_model.safetensors") for run in (single, double[0])
    )
    assert expected.keys() == shared.keys()
    for name, value in expected.items():
        assert (value - shared[name]).abs().max() < 1e-4, name


def test_groups_are_never_split(double):
    """Each group's rows stand together and are complete, so one process sampled and normalized all of it."""
    groups = [row["group"] for row in rows(double[0])]
    assert len(groups) == STEPS * PROMPTS * GROUP
    for start in range(0, len(groups), GROUP):
        assert len(set(groups[start : start + GROUP])) == 1
    assert set(Counter(groups).values()) == {GROUP}


def test_completions_of_both_processes_are_written_once(single, double):
    def said(run: Path) -> list[tuple]:
        return sorted((row["step"], row["group"], row["token_ids"], row["rewards"]["stopping"]) for row in rows(run))

    assert said(double[0]) == said(single)


def test_a_launcher_without_a_gpu_makes_one_run(launch, tmp_path):
    """Without --use_cpu, transformers makes no process group on a machine without a GPU: two equal trainings wrote to
    one folder."""
    process = launch(tmp_path / "run", use_cpu=False, max_steps=1, eval_strategy="no")
    assert process.returncode == 0, process.stderr
    assert json.loads((tmp_path / "run" / "args.json").read_text())["world_size"] == 2
    lines = (tmp_path / "run" / "completions.jsonl").read_text().splitlines()
    groups = Counter(json.loads(line)["group"] for line in lines)
    assert list(groups.values()) == [GROUP] * PROMPTS


def test_files_have_one_writer(double):
    """No temporary file is left, and only the random generators are saved per process."""
    output, _ = double
    assert {path.name for path in output.iterdir()} == {
        ".lock",
        "args.json",
        "completions.jsonl",
        "curves.png",
        f"checkpoint-{STEPS}",
    }
    assert json.loads((output / "args.json").read_text())["world_size"] == 2
    states = {path.name for path in (output / f"checkpoint-{STEPS}").glob("rng_state*")}
    assert states == {"rng_state_0.pth", "rng_state_1.pth"}


def test_the_log_shows_the_parallel_settings_once(double):
    lines = [line for line in double[1].splitlines() if "world size" in line]
    (line,) = lines
    assert "rank 0, world size 2, backend gloo" in line
    assert f"batch per device {PROMPTS * GROUP // 2}, global {PROMPTS * GROUP}" in line


def test_no_time_goes_into_a_search_for_unused_parameters(double):
    """The vision adapter and the head take part in every pass. DistributedDataParallel warns of a search in vain."""
    assert "find_unused_parameters" not in double[1]


def test_a_signal_to_one_process_stops_both_at_one_step_and_resumes(launch, double, tmp_path):
    stopped = launch(tmp_path / "run", {"STOP_RANK": "1"})
    assert stopped.returncode != 0
    assert stopped.stderr.count("stopped at step 2; resume with --resume_from_checkpoint true") == 1
    assert newest_checkpoint(tmp_path / "run").name == "checkpoint-2"
    resumed = launch(tmp_path / "run", resume_from_checkpoint=True)
    assert resumed.returncode == 0, resumed.stderr
    name = f"checkpoint-{STEPS}/adapter_model.safetensors"
    assert (tmp_path / "run" / name).read_bytes() == (double[0] / name).read_bytes()
    assert (tmp_path / "run" / "completions.jsonl").read_text() == (double[0] / "completions.jsonl").read_text()

"""DistributedDataParallel, ZeRO-2, ZeRO-3 and FSDP2 on two gloo processes train as one process does, and resume."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import Phi4MultimodalForCausalLM

from evaluate import main as evaluate
from swift.cli import rlhf
from swift.llm.checkpoint.load import load_policy
from swift.utils.files import write_json
from tests.support.builders import TORCHRUN, rlhf_command, run_python

STEPS, SAVED, GROUP, PROMPTS = 5, 3, 4, 4
ENGINES = {
    "ddp": {},
    "zero2": {"deepspeed": "zero2"},
    "zero3": {"deepspeed": "zero3"},
    "fsdp": {"fsdp": True},
}
DIVIDED = ("zero3", "fsdp")
# Adam turns the sign of a gradient near zero into a whole step, so roundings grow with the learning rate.
FLAGS = {"trainable": "vision-lora+head", "beta": 0.2, "learning_rate": 1e-3, "max_steps": STEPS, "save_steps": SAVED}
FLAGS |= {"vision_weights": True, "vision_top_share": 0.5}  # normalized over all processes
DYNAMIC = {
    "vision_weights": False,
    "vision_top_share": 1.0,
    "dynamic_sample": True,
    "min_group_std": 0.07,  # no group is replaced at the first step
    "torch_dtype": "bfloat16",
    "gradient_checkpointing": True,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("engines")


def train(world: Path, output: Path, processes: int = 2, **flags: object) -> str:
    """Run to the end; returns the log of several processes."""
    size = PROMPTS * GROUP // processes
    command = rlhf_command(world, output, per_device_train_batch_size=size, **FLAGS | flags)
    if processes == 1:
        assert rlhf.main(command) == 0
        return ""
    process = run_python("swift.cli.rlhf", *command, launcher=TORCHRUN)
    assert process.returncode == 0, process.stderr
    return process.stderr


@pytest.fixture(scope="module")
def single(world, folder) -> Path:
    """The run folder of one process."""
    train(world, folder / "single", 1)
    return folder / "single"


@pytest.fixture(scope="module", params=[name for name in ENGINES if name != "ddp"])  # test_distributed.py has that one
def plain(request, world, folder) -> tuple[str, Path, str]:
    """Engine, run folder and log of a float32 run under each engine but DistributedDataParallel."""
    output = folder / request.param
    return request.param, output, train(world, output, **ENGINES[request.param])


@pytest.fixture(scope="module")
def ddp_dynamic(world, folder) -> Path:
    """The run folder of DistributedDataParallel with dynamic sampling, in bfloat16."""
    train(world, folder / "dynamic_ddp", **DYNAMIC)
    return folder / "dynamic_ddp"


@pytest.fixture(scope="module", params=[name for name in ENGINES if name != "ddp"])
def dynamic(request, world, folder) -> tuple[str, Path]:
    """Engine and run folder of the same under each other engine. ZeRO-3 gathers layer by layer. Under FSDP2 long groups
    stay whole, although passes are asked for."""
    output = folder / f"dynamic_{request.param}"
    more = {"zero3": {"rollout_gather": "layer"}, "fsdp": {"tokens_per_pass": 64}}.get(request.param, {})
    train(world, output, **ENGINES[request.param], **DYNAMIC, **more)
    return request.param, output


def steps(run: Path) -> list[dict[str, float]]:
    state = json.loads((run / f"checkpoint-{STEPS}" / "trainer_state.json").read_text())
    names = ("step", "loss", "kl", "grad_norm", "reward", "dropped_groups", "vision_dependency", "masked_tokens")
    return [{name: entry[name] for name in names if name in entry} for entry in state["log_history"] if "loss" in entry]


def adapter(run: Path, step: int = STEPS) -> dict[str, torch.Tensor]:
    return load_file(run / f"checkpoint-{step}" / "adapter_model.safetensors")


def largest_difference(first: Path, second: Path) -> float:
    one, other = adapter(first), adapter(second)
    assert one.keys() == other.keys()
    assert all(value.numel() > 0 for value in one.values())
    return max(float((value - other[name]).abs().max()) for name, value in one.items())


def test_losses_are_those_of_one_process(single, plain):
    expected, found = steps(single), steps(plain[1])
    assert len(expected) == len(found) == STEPS
    assert any(row["kl"] > 1e-6 for row in found)
    for of_one, of_two in zip(expected, found, strict=True):
        assert of_two == pytest.approx(of_one, abs=1e-4)


def test_checkpoints_are_those_of_one_process(single, plain):
    assert largest_difference(single, plain[1]) < 1e-5


def test_each_process_holds_about_half_of_a_divided_model(plain):
    engine, _, log = plain
    held = re.search(r"this process holds ([\d,]+) of ([\d,]+) parameters", log)
    assert (held is not None) == (engine in DIVIDED)
    if held:
        part, everything = (int(number.replace(",", "")) for number in held.groups())
        assert part < 0.51 * everything
        assert "gather all weights once" in log


def test_a_run_goes_on_under_its_engine_as_if_it_had_not_stopped(world, folder, plain):
    engine, uninterrupted, _ = plain
    output = folder / f"resumed_{engine}"
    shutil.copytree(uninterrupted, output, ignore=shutil.ignore_patterns(f"checkpoint-{STEPS}"))
    train(world, output, **ENGINES[engine], resume_from_checkpoint=True, resume_changed=True)
    assert (output / "completions.jsonl").read_text() == (uninterrupted / "completions.jsonl").read_text()
    assert largest_difference(output, uninterrupted) == 0


def test_a_run_goes_on_in_one_process_from_any_engine(world, folder, plain):
    engine, uninterrupted, _ = plain
    output = folder / f"alone_{engine}"
    shutil.copytree(uninterrupted, output, ignore=shutil.ignore_patterns(f"checkpoint-{STEPS}"))
    train(world, output, 1, resume_from_checkpoint=True, resume_changed=True)
    assert largest_difference(output, uninterrupted) < 1e-5


def test_engines_agree_with_dynamic_sampling_in_bfloat16(ddp_dynamic, dynamic):
    assert any(row.get("kl", 0) > 1e-6 for row in steps(ddp_dynamic))
    assert any(0 < row["dropped_groups"] < 1 for row in steps(ddp_dynamic))
    for expected, found in zip(steps(ddp_dynamic), steps(dynamic[1]), strict=True):
        assert found == pytest.approx(expected, abs=1e-4)
    assert largest_difference(ddp_dynamic, dynamic[1]) < 1e-5


def test_gradients_are_averaged_in_bfloat16_too(world, folder, ddp_dynamic):
    """The norm of the first step is that of one process. Exchanging the data of parameters for rounded copies had
    taken DistributedDataParallel's hooks away."""
    train(world, folder / "single_dynamic", 1, **DYNAMIC, max_steps=1)
    state = json.loads((folder / "single_dynamic" / "checkpoint-1" / "trainer_state.json").read_text())
    assert steps(ddp_dynamic)[0]["grad_norm"] == pytest.approx(state["log_history"][0]["grad_norm"], rel=0.02)


def test_checkpoints_load_in_plain_transformers_and_peft(world, plain):
    checkpoint = plain[1] / f"checkpoint-{STEPS}"
    base = Phi4MultimodalForCausalLM.from_pretrained(world / "policy")
    theirs = PeftModel.from_pretrained(base, checkpoint).eval()
    ours = load_policy(checkpoint).model.eval()
    ids = torch.arange(7, 27)[None]
    with torch.no_grad():
        assert (theirs(input_ids=ids).logits - ours(input_ids=ids).logits).abs().max() < 1e-5


def test_checkpoints_are_evaluated(world, folder, plain):
    record = {"question": "Is there an effusion?", "explanation": "<answer>yes</answer>", "image_ids": ["000"]}
    write_json(folder / "questions.json", [record])
    engine, run, _ = plain
    output = folder / f"results_{engine}"
    command = {
        "model_path": run / f"checkpoint-{STEPS}",
        "annotation_file": folder / "questions.json",
        "img_root": world / "data" / "images",
        "output_dir": output,
        "max_new_tokens": 4,
    }
    assert evaluate([word for name, value in command.items() for word in (f"--{name}", str(value))]) == 0
    (result,) = output.glob("*_results.json")
    assert len(json.loads(result.read_text())["results"]) == 1

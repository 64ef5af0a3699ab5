"""The surface that users and their plugins rely on: commands, importable names, files at the top level."""

from __future__ import annotations

import importlib
import json
import os

import pytest

from tests.support.builders import ROOT, run_python

TRAINING = ("model", "dataset", "output_dir", "train_type", "learning_rate", "resume_from_checkpoint")
EVALUATION = (
    "model_path", "base_model_path", "annotation_file", "img_root", "output_dir", "dataset_folder", "max_samples",
    "use_flash_attention", "dynamic_hd",
)  # fmt: skip
# What a user types after ``python``, and flags that its help names.
COMMANDS = {
    "-m swift.cli.rlhf": (*TRAINING, "rlhf_type", "reward_funcs", "num_generations", "beta", "dynamic_sample"),
    "-m swift.cli.sft": TRAINING,
    "-m tools.sample_data": ("source", "policies", "sizes"),
    "-m tools.sweep": ("dry-run",),
    "-m tools.train": (),
    "-m tools.summarize": ("baseline",),
    "-m tools.convert_checkpoint": ("to", "merge"),
    "-m tools.compare_results": ("run", "output"),
    "-m tools.evaluation_report": ("output",),
    "-m tools.training_report": ("output", "title"),
    "-m tools.reward_audit": ("dataset", "completions", "reward_funcs", "output"),
    "-m tools.privacy": ("redact", "keep_weights"),
    "-m tools.prepare_data": ("images", "reports"),
    "-m tools.check_data": ("image_root",),
    "-m tools.ask": ("temperature",),
    "-m tools.make_demo": ("output", "policy", "prose", "prevalence", "style"),
    "-m tools.make_kg_annotations": ("output",),
    "-m experiments.claim.run": ("stages", "dry-run", "plan", "results"),
    "-m experiments.claim.measure": ("part", "plan", "results"),
    "-m experiments.claim.analyze": ("write", "plan", "results"),
    "-m tools.rehearse": ("folder", "layout", "layers", "config"),
    "-m ReXKG": ("models",),
    "-m ReXKG.train": (),
    "evaluate.py": EVALUATION,
    "evaluate_token_prob.py": EVALUATION,
    "tools/00_GT_kg.py": (),
    "tools/01_MIMIC_kg.py": (),
    "tools/02_hall_kg.py": (),
}
FIXED_NAMES = [
    "swift.cli.rlhf:main",
    "swift.cli.sft:main",
    "swift.plugin:ORM",
    "swift.plugin:orms",
    "swift.trainers.rlhf_trainer.grpo_trainer:GRPOTrainer",
    "swift.utils:get_device_count",
    "swift.utils:get_dist_setting",
    "swift.utils:get_logger",
    "swift.utils:is_dist",
    "swift.utils:is_mp",
    "swift.utils:is_mp_ddp",
    "utils.get_knowledge_graph:extract_knowledge_graph",
]
SCRIPTS = ["train.sh", "train_loop.sh", "evaluate.sh", "get_kg_metric.sh"]
TOP_LEVEL = [
    *SCRIPTS, "evaluate.py", "evaluate_token_prob.py", "plugin.py", "swift", "utils", "ReXKG", "tools", "configs",
    "experiments", "data", "checkpoints", "output", "result", "logs", "Makefile", "README.md", "requirements.txt",
]  # fmt: skip


@pytest.fixture(scope="module")
def answers():
    process = run_python("tests.support.surface", *COMMANDS)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_answers_help(answers, command):
    status, output = answers["helps"][command]
    assert status == 0, output
    usage = output.splitlines()[0]
    assert usage.startswith("usage: ")
    assert command in usage
    missing = [flag for flag in COMMANDS[command] if f"--{flag}" not in output]
    assert missing == []


def test_every_module_imports(answers):
    assert not answers["failures"], "\n".join(answers["failures"].values())


@pytest.mark.parametrize("name", FIXED_NAMES)
def test_a_fixed_name_imports(name):
    module, _, attribute = name.partition(":")
    assert hasattr(importlib.import_module(module), attribute)


@pytest.mark.parametrize("name", TOP_LEVEL)
def test_a_top_level_name_exists(name):
    assert (ROOT / name).exists()


@pytest.mark.parametrize("name", [*SCRIPTS, "tools/demo.sh"])
def test_a_script_can_be_executed(name):
    assert os.access(ROOT / name, os.X_OK)

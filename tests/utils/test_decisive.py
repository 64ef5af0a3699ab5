"""Settings that decide a result are said once: evaluator, sweep, environment, comparison and summary agree."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest

from swift.evaluation.arguments import EvaluationArguments, TokenArguments
from swift.llm.arguments import DataArguments, ModelArguments, RLHFArguments
from swift.llm.ms_swift_flags import FOREIGN_FLAGS
from swift.utils.decisive import NAMES_OF_CONTENT, WATCHING, Decides, fields_that_decide
from swift.utils.flags import FlagParser
from tools.reports.result_files import EXPECTED_TO_DIFFER
from tools.sweeps.runs import evaluation_settings, training_settings
from tools.sweeps.summary import PER_RUN
from utils.switches import SWITCHES, switches_set


def test_the_settings_in_a_result_file_are_those_of_earlier_files():
    """Byte for byte: a file with one setting more or less would be refused as one of other settings."""
    plain = EvaluationArguments(["m"]).decisive()
    assert list(plain) == [
        "control", "seed", "num_samples", "temperature", "max_new_tokens", "dynamic_hd", "torch_dtype",
        "use_flash_attention",
    ]  # fmt: skip
    tokens = TokenArguments(["m"]).decisive()
    assert list(tokens) == [*plain, "top_k_alternatives", "given"]


def test_every_evaluation_flag_has_one_influence():
    parts = [fields_that_decide(TokenArguments, influence) for influence in Decides]
    names = [field.name for field in dataclasses.fields(TokenArguments)]
    assert sorted(name for part in parts for name in part) == sorted(names)


def test_flags_that_watch_a_training_run_exist():
    groups = (ModelArguments, DataArguments, RLHFArguments)
    known = {field.name for group in groups for field in dataclasses.fields(group)} | set(FOREIGN_FLAGS)
    assert known >= WATCHING
    assert known >= NAMES_OF_CONTENT
    assert {"learning_rate", "beta", "seed", "model", "reward_funcs", "logging_steps"}.isdisjoint(WATCHING)


@pytest.mark.parametrize("flag", sorted(WATCHING))
def test_a_sweep_overlooks_a_flag_that_only_watches(flag):
    command = ["python", "-m", "swift.cli.rlhf", "--beta", "0.5"]
    watched = [*command, f"--{flag.replace('_', '-')}", "x"]
    assert training_settings({"command": watched}) == training_settings({"command": command})


@pytest.mark.parametrize("name", SWITCHES)
def test_a_sweep_tells_runs_of_other_switches_apart(name):
    settings = [training_settings({"environment": {name: value}}) for value in ("a", "b")] + [training_settings({})]
    assert settings[0] != settings[1] != settings[2]
    assert training_settings({"environment": {name: ""}}) == settings[2]
    assert switches_set({name: "a", "HOME": "/"}) == {name: "a"}


def test_an_evaluation_of_a_sweep_is_another_by_its_answers_only():
    same = {"batch_size": ["8"], "no_tqdm": [], "num_workers": ["2"], "on_error": ["skip"], "list_results": ["x"]}
    assert evaluation_settings({"flags": same | {"max_new_tokens": ["9"]}}) == {"max_new_tokens": ("9",)}
    # A sweep has no digest of questions: their files and their number count by name.
    assert evaluation_settings({"flags": {"max_samples": ["4"]}}) == {"max_samples": ("4",)}


def test_compared_files_may_differ_in_what_changes_no_answer():
    assert {"weights", "control", "format", "tokens", "top_k_alternatives"} == EXPECTED_TO_DIFFER
    assert {"seed", "dataset"} == PER_RUN


def test_what_a_flag_decides_is_no_matter_of_the_command_line():
    parser = FlagParser((TokenArguments,), prog="x", description="y")
    (arguments,) = parser.parse(["--model_path", "m", "--image_root", "r", "--top_k_alternatives", "2", "--no_tqdm"])
    assert (arguments.img_root, arguments.top_k_alternatives, arguments.no_tqdm) == ("r", 2, True)
    assert TokenArguments.__dataclass_fields__["batch_size"].metadata["decides"] is Decides.NOTHING


def test_a_sweep_compares_commands_without_torch():
    code = "import sys, tools.sweep; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0

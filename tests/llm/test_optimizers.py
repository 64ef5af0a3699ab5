"""Optimizers of libraries: a missing one is one line, found before any data is read."""

from __future__ import annotations

import importlib.util

import pytest
from transformers.training_args import OptimizerNames

from swift.llm.optimizers import check_optimizer
from swift.utils.errors import UserError
from tests.support.grpo_runs import make_trainer

OWN = {"adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad", "rmsprop"}  # of torch and transformers
PACKAGES = {
    "adamw_torch_8bit": "torchao",
    "adamw_torch_4bit": "torchao",
    "adamw_8bit": "bitsandbytes",
    "adamw_bnb_8bit": "bitsandbytes",
    "paged_adamw_32bit": "bitsandbytes",
    "lion_32bit": "bitsandbytes",
    "rmsprop_bnb": "bitsandbytes",
    "ademamix": "bitsandbytes",
    "galore_adamw_8bit": "galore-torch",
    "galore_adamw_8bit_layerwise": "galore-torch",
    "apollo_adamw": "apollo-torch",
    "adalomo": "lomo-optim",
    "schedule_free_sgd": "schedulefree",
    "stable_adamw": "torch-optimi",
}


@pytest.fixture
def nothing_installed(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)


@pytest.mark.parametrize("name", [optimizer.value for optimizer in OptimizerNames])
def test_every_optimizer_is_either_built_in_or_names_its_package(nothing_installed, name):
    if name in OWN:
        check_optimizer(name)
    else:
        with pytest.raises(UserError, match=f"--optim {name} needs the .* package; pip install .*--optim adafactor"):
            check_optimizer(name)


@pytest.mark.parametrize(("name", "package"), PACKAGES.items())
def test_the_package_is_the_one_that_has_the_optimizer(nothing_installed, name, package):
    with pytest.raises(UserError, match=f"needs the {package} package"):
        check_optimizer(name)


def test_an_installed_library_is_accepted(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if name == "torchao" else None)
    check_optimizer("adamw_torch_8bit")
    with pytest.raises(UserError, match="bitsandbytes"):
        check_optimizer("adamw_8bit")


def test_a_run_whose_library_is_missing_does_not_start(nothing_installed, world, tmp_path):
    with pytest.raises(UserError, match="--optim adamw_torch_8bit needs the torchao package"):
        make_trainer(world, tmp_path / "run", optim="adamw_torch_8bit")

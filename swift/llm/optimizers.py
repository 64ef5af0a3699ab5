"""Optimizers that come from a library of their own, by ``--optim``."""

from __future__ import annotations

import importlib.util

from swift.utils.errors import UserError

# Part of the optimizer's name, the module it is imported from, the package that has the module; the first match counts.
LIBRARIES = (
    ("galore", "galore_torch", "galore-torch"),
    ("apollo", "apollo_torch", "apollo-torch"),
    ("lomo", "lomo_optim", "lomo-optim"),
    ("schedule_free", "schedulefree", "schedulefree"),
    ("grokadamw", "grokadamw", "grokadamw"),
    ("stable_adamw", "optimi", "torch-optimi"),
    ("anyprecision", "torchdistx", "torchdistx"),
    ("_xla", "torch_xla", "torch-xla"),
    ("_npu", "torch_npu", "torch-npu"),
    ("adamw_torch_8bit", "torchao", "torchao"),
    ("adamw_torch_4bit", "torchao", "torchao"),
    *((word, "bitsandbytes", "bitsandbytes") for word in ("8bit", "bnb", "paged", "ademamix", "lion")),
)


def check_optimizer(name: str) -> None:
    """Raise UserError if the library of the optimizer ``name`` is not installed."""
    package = next(((module, package) for word, module, package in LIBRARIES if word in name), None)
    if package is not None and importlib.util.find_spec(package[0]) is None:
        raise UserError(
            f"--optim {name} needs the {package[1]} package; pip install {package[1]}, or pass --optim adafactor, "
            "which needs none"
        )

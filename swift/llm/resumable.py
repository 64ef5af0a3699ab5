"""Checking that a checkpoint can be resumed: its files are as they were written, and can be read."""

from __future__ import annotations

import random
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainerState

from swift.llm.checkpoint.adapters import read_adapter
from swift.llm.checkpoint.checksums import verify_checksums
from swift.llm.checkpoint.folders import is_adapter
from swift.llm.checkpoint.stored_tensors import find_shards, list_tensors
from swift.utils.errors import UserError
from swift.utils.files import read_json
from swift.utils.lines import one_line
from swift.utils.plain_pickles import read_plain_pickle
from swift.utils.run_folder import CHECKSUMS, STATE_FILE, step_in_name

_OPTIMIZER, _SCHEDULER, _RANDOM = "optimizer.pt", "scheduler.pt", "rng_state*.pth"
_SCALER, _REFERENCE = "scaler.pt", "reference.pt"  # of some runs only


def check_resumable(checkpoint: Path, remedy: str, *, only_model: bool = False) -> None:
    """Raise UserError, which ends with ``remedy``, if the checkpoint cannot be resumed.

    Files are compared with checksums.json. Without it, as other programs leave checkpoints, a few changed bytes in the
    weights are not noticed. With ``only_model`` the states of optimizer, schedule and generators do not count.
    """
    if (checkpoint / CHECKSUMS).exists():
        verify_checksums(checkpoint, remedy)
    _check_log(checkpoint, remedy)
    if is_adapter(checkpoint):
        read_adapter(checkpoint)
    else:
        list_tensors(find_shards(checkpoint))
    if only_model:
        return
    lost = [name for name in (_OPTIMIZER, _SCHEDULER, _RANDOM) if not any(checkpoint.glob(name))]
    if lost and not is_model_alone(checkpoint):
        raise UserError(f"{checkpoint}: {', '.join(lost)} missing; {remedy}")
    checks = {
        _OPTIMIZER: _is_optimizer,
        _SCHEDULER: _is_scheduler,
        _RANDOM: _is_random,
        _SCALER: _is_dict,
        _REFERENCE: _is_dict,
    }
    for name, is_right in checks.items():
        for file in sorted(checkpoint.glob(name)):
            _check_state(file, is_right, remedy)


def is_model_alone(checkpoint: Path) -> bool:
    """True if the checkpoint has no state of training at all, as ``--save_only_model true`` leaves it."""
    return not any(path for name in (_OPTIMIZER, _SCHEDULER, _RANDOM) for path in checkpoint.glob(name))


def _check_log(checkpoint: Path, remedy: str) -> None:
    """Check trainer_state.json as far as the Trainer reads it."""
    path = checkpoint / STATE_FILE
    state = read_json(path, remedy)
    log, step, steps = (state.get(name) for name in ("log_history", "global_step", "max_steps"))
    numbered = not checkpoint.name.startswith("checkpoint-") or step == step_in_name(checkpoint)
    whole = type(step) is int and type(steps) is int and numbered
    if not whole or not isinstance(log, list) or not all(isinstance(entry, dict) for entry in log):
        raise UserError(f"{path} is not the state of this checkpoint; {remedy}")
    try:
        TrainerState.load_from_json(str(path))
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise UserError(f"{path} is not the state of a Trainer ({one_line(error)}); {remedy}") from error


def _check_state(file: Path, is_right: Callable[[Any], bool], remedy: str) -> None:
    """Check one file of the state of training. Nothing in it is executed."""
    mapped = zipfile.is_zipfile(file)
    if mapped and not (file.parent / CHECKSUMS).exists():
        _check_archive(file, remedy)
    state = read_plain_pickle(file, remedy, mapped=mapped)
    try:
        right = is_right(state)
    except (TypeError, ValueError, KeyError, RuntimeError, OverflowError, AttributeError, IndexError):
        right = False
    if not right:
        raise UserError(f"{file} holds something else than its name says; {remedy}")


def _check_archive(file: Path, remedy: str) -> None:
    """Compare the parts of an archive with the checksums in it."""
    try:
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{file} cannot be read ({one_line(error)}); {remedy}") from error
    if damaged is not None:
        raise UserError(f"{file} cannot be read ({damaged} is damaged); {remedy}")


def _is_dict(state: Any) -> bool:
    return isinstance(state, dict)


def _is_optimizer(state: Any) -> bool:
    groups = state["param_groups"]
    return isinstance(state["state"], dict) and all(isinstance(group["params"], list) for group in groups)


def _is_scheduler(state: Any) -> bool:
    return isinstance(state, dict) and type(state["last_epoch"]) is int


def _is_random(state: Any) -> bool:
    """True if generators of their own take the states."""
    random.Random().setstate(state["python"])
    np.random.RandomState().set_state(state["numpy"])
    torch.Generator().set_state(state["cpu"])
    return True

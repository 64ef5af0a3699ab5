"""The pickles of a checkpoint that resuming reads, checked before a model is loaded."""

from __future__ import annotations

import zipfile
from pathlib import Path

from swift.utils.errors import UserError
from swift.utils.plain_pickles import read_plain_pickle

# The files, and what each has at the least.
TRAINING_STATE = {
    "optimizer.pt": {"state", "param_groups"},
    "scheduler.pt": {"last_epoch"},
    "scaler.pt": set(),
    "reference.pt": set(),
    "rng_state*.pth": {"python", "numpy", "cpu"},
}


def check_training_state(checkpoint: Path) -> None:
    """Raise UserError if a pickle that resuming reads would run code, cannot be read or holds something else."""
    for pattern, keys in TRAINING_STATE.items():
        for path in sorted(checkpoint.glob(pattern)):
            value = read_plain_pickle(path, "resume from another checkpoint", mapped=zipfile.is_zipfile(path))
            if not isinstance(value, dict) or not keys <= value.keys():
                raise UserError(f"{path} is not what training saves; resume from another checkpoint")

"""Values that flags of commands may have, by the names of the flags, and a parser for commands without a dataclass.

What depends on several flags, or on the data and the model, is checked where it is known.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from swift.utils.errors import UserError
from swift.utils.output_folders import check_output_folder

_LARGEST = 2**31 - 1  # of whole numbers
_LARGEST_SEED = 2**32 - 1
_ABOVE_ZERO = math.ulp(0.0)
_BELOW_ONE = math.nextafter(1.0, 0.0)
_SHOWN = 60  # characters of a value in a message

# Smallest and largest value, if they are not those of every number. Where a command has a lower bound of its own, only
# the largest counts.
LIMITS: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("seed", "data_seed"), (0, _LARGEST_SEED)),
    **dict.fromkeys(
        ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps", "mini_batch_size",
         "eval_accumulation_steps", "ddp_timeout", "ddp_bucket_cap_mb", "repetition_n_grams", "cosine_max_len",
         "soft_max_length"),
        (1, _LARGEST),
    ),
    **dict.fromkeys(("num_generations", "num_generations_eval", "num_samples", "lora_rank"), (-_LARGEST, 65_536)),
    **dict.fromkeys(("num_workers", "workers", "dynamic_hd", "top_k_alternatives"), (-_LARGEST, 1024)),
    "temperature": (-_LARGEST, 1e9),
    "dataloader_num_workers": (0, 1024),
    **dict.fromkeys(("logging_steps", "eval_steps", "save_steps", "num_train_epochs", "head_learning_rate"),
                    (_ABOVE_ZERO, _LARGEST)),
    **dict.fromkeys(("learning_rate", "weight_decay", "warmup_steps", "adam_epsilon", "max_grad_norm", "eval_delay",
                     "neftune_noise_alpha", "soft_cache_length"), (0, 1e9)),
    **dict.fromkeys(("adam_beta1", "adam_beta2"), (0, _BELOW_ONE)),
    **dict.fromkeys(("label_smoothing_factor", "warmup"), (0, 1)),
}  # fmt: skip

# Folders that commands without a dataclass write to.
OUTPUTS = frozenset({"output", "output_dir", "target", "root", "folder", "policy"})

# Flags that name files and folders. None of them has a use for an empty name.
PATHS = frozenset({
    "model", "ref_model", "base_model", "dataset", "val_dataset", "image_root", "external_plugins", "output_dir",
    "logging_dir", "resume_from_checkpoint", "model_path", "base_model_path", "dataset_folder", "annotation_file",
    "img_root", "list_results", "results", "root", "output", "policy", "config",
})  # fmt: skip


def check_flag(name: str, value: Any) -> None:
    """Raise UserError for a value that no run could use: a number that is not finite or out of bounds, an empty name of
    a file, the name of a device, or a text that is not UTF-8. Each element of a list is checked."""
    for part in value if isinstance(value, list | tuple) else [value]:
        if isinstance(part, int | float) and not isinstance(part, bool):
            _check_number(name, part)
        elif isinstance(part, str | Path):
            _check_text(name, str(part), is_path=name in PATHS or isinstance(part, Path))


def _check_text(name: str, text: str, is_path: bool) -> None:
    if "\0" in text:
        raise UserError(f"--{name} {_short(text)} holds a NUL byte; remove it")
    if is_path and not text.strip():
        raise UserError(f"--{name} is empty; name a file or folder, or leave the flag out")
    if not is_path and any("\ud800" <= character <= "\udfff" for character in text):
        raise UserError(f"--{name} {_short(text)!a} is not UTF-8; give UTF-8 text")
    try:
        endless = stat.S_ISCHR(os.stat(text).st_mode)
    except OSError:
        return
    if endless:
        raise UserError(f"--{name} {text} is a device, which has no end; name a file or folder")


def check_flags(values: Mapping[str, Any]) -> None:
    """Check the values of flags by name. Raises UserError as :func:`check_flag`."""
    for name, value in values.items():
        check_flag(name, value)


def _check_number(name: str, value: float) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"--{name} {value} must be a finite number")
    low, high = LIMITS.get(name, (-_LARGEST, _LARGEST) if isinstance(value, int) else (-math.inf, math.inf))
    if value < low:
        least = "above 0" if low == _ABOVE_ZERO else f"{low:g} or more"
        raise UserError(f"--{name} {_short(value)} must be {least}")
    if value > high:
        most = "below 1" if high == _BELOW_ONE else f"at most {high:.15g}"
        raise UserError(f"--{name} {_short(value)} must be {most}")


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


class CommandParser(argparse.ArgumentParser):
    """A parser whose flags cannot be abbreviated, and that reports every mistake by a UserError of one line.

    A folder among `OUTPUTS` that cannot be written to is such a mistake.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[argparse.Namespace, list[str]]:
        """As argparse's, with the values checked."""
        given, rest = super().parse_known_args(args, namespace)
        check_flags(vars(given))
        for action in self._actions:
            if action.dest in OUTPUTS and (folder := getattr(given, action.dest)) is not None:
                check_output_folder(folder, (action.option_strings or [action.dest])[-1])
        return given, rest

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        if action.type is Path and not arg_string.strip():  # Path makes the working folder of it
            raise argparse.ArgumentError(action, "is empty; name a file or folder, or leave the flag out")
        return super()._get_value(action, arg_string)

    def error(self, message: str) -> NoReturn:
        """Raise argparse's complaint."""
        raise UserError(one_complaint(message))


def one_complaint(message: str) -> str:
    """A complaint of argparse as one line that names the flag once."""
    return re.sub("^argument ", "flag ", message) + "; see --help"

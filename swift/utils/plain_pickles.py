"""Reading of pickles that torch wrote. They may hold tensors and plain values, and nothing in them is run."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

from swift.utils.errors import UserError
from swift.utils.lines import one_line


def read_plain_pickle(path: Path, remedy: str, *, mapped: bool = False) -> Any:
    """The value in a file of `torch.save`, on the CPU. Tensors stay on the disk if they are ``mapped``.

    Raises UserError if the file would run code or cannot be read. The message ends with ``remedy`` in the first case.
    """
    import torch
    from transformers.trainer_pt_utils import safe_globals  # arrays of numpy, as in the state of its random numbers

    try:
        with safe_globals(), warnings.catch_warnings(action="ignore"):  # torch warns of protocols before it refuses
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} is not a pickle of plain tensors and could run code, so it is not read; {remedy}"
        ) from error
    except Exception as error:  # a damaged pickle fails anywhere in torch
        raise UserError(f"{path} cannot be read ({one_line(error)}); copy the file again") from error

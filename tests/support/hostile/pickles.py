"""Pickles and code that leave a mark if anything runs them."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch


class Payload:
    """Touches a file when it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def write_pickle(path: Path, mark: Path, *, by: str = "torch") -> Path:
    """Write an object whose unpickling touches ``mark``: ``by`` torch, torch before 1.6 ("old"), or pickle itself."""
    value = {"state": Payload(mark), "param_groups": Payload(mark)}
    if by == "pickle":
        path.write_bytes(pickle.dumps(value))
    else:
        torch.save(value, path, _use_new_zipfile_serialization=by == "torch")
    return path


def write_code(folder: Path, mark: Path, name: str = "evil.py") -> str:
    """Write a module that touches ``mark`` when it is imported, and has classes of any name. Returns its name."""
    (folder / name).write_text(
        f"import pathlib\npathlib.Path({str(mark)!r}).touch()\n"
        "def __getattr__(name):\n    return type(name, (), {'from_pretrained': classmethod(lambda *a, **k: None)})\n"
    )
    return name.removesuffix(".py")

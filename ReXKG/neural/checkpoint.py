"""Model folders in the layout of PURE: config.json and weights, checked against each other before a model is used.

Nothing in a folder is executed. Weights are safetensors, or a pickle that holds tensors and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import BertConfig, BertModel

from ReXKG.neural.folders import WEIGHT_FILES

# Tensors of old checkpoints that no prediction uses.
_UNUSED = ("bert.pooler.", "bert.embeddings.position_ids")
_LISTED = 10


def read_model_json(path: Path) -> dict:
    """The JSON object in a file. Raises ValueError with the file's name."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: cannot be read ({error})") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path}: holds a {type(value).__name__}, not a JSON object")
    return value


def read_config(folder: Path) -> BertConfig:
    """The configuration of the encoder. Raises ValueError if it is not that of a BERT."""
    path = Path(folder) / "config.json"
    values = read_model_json(path)
    if values.get("model_type", "bert") != "bert":
        raise ValueError(f"{path}: model_type {values['model_type']!r} is not supported; use a BERT-type encoder")
    try:
        return BertConfig(**values)
    except (TypeError, ValueError, StrictDataclassError) as error:
        raise ValueError(f"{path}: not the configuration of a BERT ({' '.join(str(error).split())})") from error


def read_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of a folder by name, floating-point ones as float32, without those that no prediction uses.

    Raises:
        ValueError: there are no weights, or the file does not hold tensors only; the message names it.
    """
    path = next((Path(folder) / name for name in WEIGHT_FILES if (Path(folder) / name).is_file()), None)
    if path is None:
        raise ValueError(f"{folder}: has no weights; put {' or '.join(WEIGHT_FILES)} there")
    try:
        if path.suffix == ".safetensors":
            tensors = load_file(path)
        else:
            tensors = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle fails anywhere in torch
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path}: refused, because it is not a plain file of tensors ({reason})") from error
    if not isinstance(tensors, dict) or not all(isinstance(value, torch.Tensor) for value in tensors.values()):
        raise ValueError(f"{path}: refused, because it holds something other than tensors by name")
    return {
        name: value.float() if value.is_floating_point() else value
        for name, value in tensors.items()
        if not name.startswith(_UNUSED)
    }


def load_model(model: nn.Module, folder: Path) -> None:
    """Fill ``model`` with the tensors of a folder.

    Raises:
        ValueError: tensors are missing, unexpected or of another shape; the message lists them.
    """
    _fill(model, read_tensors(folder), folder)


def load_encoder(encoder: BertModel, folder: Path) -> None:
    """Fill a bare BERT from any model that contains one. Tensors of other parts are ignored.

    Raises:
        ValueError: tensors are missing or of another shape; the message lists them.
    """
    expected = encoder.state_dict().keys()
    tensors = {_present_name(name): value for name, value in read_tensors(folder).items()}
    _fill(encoder, {name: value for name, value in tensors.items() if name in expected}, folder)


def _present_name(name: str) -> str:
    """The name of a tensor in today's bare BERT. The first BERTs called the weights of LayerNorm gamma and beta."""
    name = name.removeprefix("bert.")
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def _fill(model: nn.Module, tensors: dict[str, torch.Tensor], folder: Path) -> None:
    expected = model.state_dict()
    shapes = [
        f"{name} {list(tensors[name].shape)} instead of {list(value.shape)}"
        for name, value in expected.items()
        if name in tensors and tensors[name].shape != value.shape
    ]
    problems = [
        f"{title}: {_listing(names)}"
        for title, names in (
            ("missing", sorted(expected.keys() - tensors.keys())),
            ("unexpected", sorted(tensors.keys() - expected.keys())),
            ("wrong shape", shapes),
        )
        if names
    ]
    if problems:
        raise ValueError(f"{folder}: its tensors are not those of {type(model).__name__}; {'; '.join(problems)}")
    model.load_state_dict(tensors, assign=True)


def _listing(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def save_model(model: nn.Module, folder: Path) -> None:
    """Write the tensors of a model to model.safetensors, completely or not at all."""
    with _replacing(Path(folder) / WEIGHT_FILES[0]) as temporary:
        save_file({name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}, temporary)


def save_json(value: dict, path: Path) -> None:
    """Write one JSON object in UTF-8, completely or not at all."""
    with _replacing(path) as temporary:
        temporary.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside ``path`` to write to; it replaces ``path`` when the block succeeds."""
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def model_fingerprint(models: Iterable[nn.Module], *settings: object) -> str:
    """Eight hexadecimal digits that change with any weight or setting."""
    digest = hashlib.sha256(repr(settings).encode())
    for model in models:
        for name, value in sorted(model.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().numpy())
    return digest.hexdigest()[:8]

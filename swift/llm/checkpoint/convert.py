"""Conversion of a checkpoint between the remote-code layout and the native one, both ways.

A conversion is planned first, from headers alone, and then written. Tensors are copied bit for bit, shard by shard.
Only merged tensors are computed (in float32, rounded to the weight's own type). Every tensor is read back and
compared, and the SHA-256 of every file is written to checksums.json.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from swift.llm.checkpoint.adapters import FOLDERS, WEIGHTS, Adapter, write_adapter_config
from swift.llm.checkpoint.assemble import empty_model, match_tensors, refuse_zero_adapters
from swift.llm.checkpoint.checksums import checksums, verify_checksums
from swift.llm.checkpoint.folders import PolicyFolder
from swift.llm.checkpoint.layouts import Checkpoint, read_checkpoint
from swift.llm.checkpoint.remote_config import processor_config, remote_config, remote_lora
from swift.llm.checkpoint.remote_names import PEFT_PREFIX, remote_lora_name, remote_name
from swift.llm.checkpoint.stored_tensors import Stored, bits, list_tensors, read_tensor, same_bytes
from swift.llm.phi4_names import REMOTE_MODEL_CODE
from swift.utils.errors import UserError
from swift.utils.files import read_json, write_json
from swift.utils.logger import get_logger
from swift.utils.run_folder import CHECKSUMS

COPIED = (
    "tokenizer.json tokenizer_config.json vocab.json merges.txt added_tokens.json special_tokens_map.json "
    "chat_template.json chat_template.jinja generation_config.json"
)

logger = get_logger()


@dataclass(frozen=True)
class Piece:
    """A tensor to write: a stored one, or a stored one with a LoRA adapter folded in."""

    stored: Stored
    matrices: tuple[Stored, Stored] | None = None  # A [rank, in] and B [out, rank]
    scale: float = 0.0

    def value(self) -> Tensor:
        """The tensor in its stored type: W, or W + scale B A."""
        weight = read_tensor(self.stored)
        if self.matrices is None:
            return weight
        a, b = (read_tensor(matrix).float() for matrix in self.matrices)
        return (weight.float() + self.scale * (b @ a)).to(weight.dtype)


@dataclass(frozen=True)
class Plan:
    """The content of a target folder."""

    source: PolicyFolder
    checkpoint: Checkpoint
    model: nn.Module  # without values, for its configuration
    to: str  # "native" or "remote"
    files: dict[str, dict[str, Piece]]  # file in the folder -> tensors by their names in it
    adapters: dict[str, Adapter]  # those that stay adapters
    dropped: dict[str, str]  # adapter left out -> reason

    @property
    def nbytes(self) -> int:
        """Size of all tensors, bytes."""
        return sum(piece.stored.nbytes for tensors in self.files.values() for piece in tensors.values())

    def describe(self) -> list[str]:
        """Lines for people: what is in the source, what is left out, and each file to write."""
        lines = self.checkpoint.describe()
        lines += [f"left out: the {name} adapter: {reason}" for name, reason in self.dropped.items()]
        for file, tensors in self.files.items():
            folded = sum(piece.matrices is not None for piece in tensors.values())
            size = sum(piece.stored.nbytes for piece in tensors.values())
            lines.append(f"{file}: {len(tensors)} tensors, {size / 1e9:.2f} GB" + (f", {folded} merged" * bool(folded)))
        return lines


def plan_conversion(source: PolicyFolder, to: str, *, merge: bool = False, shard_bytes: int) -> Plan:
    """Plan the conversion of ``source`` to layout ``to``, "native" or "remote", in shards of ``shard_bytes``.

    With ``merge`` the vision adapter is folded into the weights. Reads headers, checks the source as loading does, and
    verifies its checksums.json if there is one. Raises UserError for a source that cannot be converted.
    """
    checkpoint = read_checkpoint(source)
    model = empty_model(checkpoint, checkpoint.dtype)
    match_tensors(model, checkpoint)
    refuse_zero_adapters(checkpoint)
    adapters, dropped = dict(checkpoint.adapters), {}
    weights = {name: Piece(stored) for name, stored in checkpoint.weights.items()}
    if merge:
        if "vision" not in adapters:
            raise UserError(f"{source.path}: there is no vision adapter to merge; leave --merge out")
        weights |= _folded(checkpoint, adapters.pop("vision"))
        dropped = dict.fromkeys(adapters, "it does not fit weights that another adapter is folded into")
        adapters = {}
    if to == "native":
        files = _shards(weights, shard_bytes)
        for name, adapter in adapters.items():
            tensors = {PEFT_PREFIX + key: Piece(stored) for key, stored in adapter.tensors.items()}
            files[f"{FOLDERS[name]}/{WEIGHTS}"] = tensors
    else:
        files = _shards(_remote_names(weights, adapters), shard_bytes)
    for folder in {source.path, source.full}:
        verify_checksums(folder)
    return Plan(source, checkpoint, model, to, files, adapters, dropped)


def write_plan(plan: Plan, target: Path, code: Path | None = None) -> None:
    """Write ``target`` as planned. The folder appears under its name when it is complete, or not at all.

    ``code`` is the folder of Microsoft's modeling code for the remote layout; default: the source. Raises UserError if
    the disk is too small or faulty, or ``code`` holds no such code.
    """
    existing = next(parent for parent in target.absolute().parents if parent.exists())
    if (free := shutil.disk_usage(existing).free) < plan.nbytes:
        raise UserError(
            f"{target} needs {plan.nbytes / 1e9:.1f} GB, {existing} has {free / 1e9:.1f} GB free; free some space"
        )
    temporary = target.with_name(f".{os.getpid()}.{target.name}")
    temporary.mkdir(parents=True)
    try:
        _write_tensors(plan, temporary)
        _write_configs(plan, temporary)
        if plan.to == "remote":
            _copy_code(code or plan.source.full, temporary, required=code is not None)
        write_json(temporary / CHECKSUMS, checksums(temporary))
        os.replace(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _folded(checkpoint: Checkpoint, adapter: Adapter) -> dict[str, Piece]:
    lora = adapter.config
    scale = lora.lora_alpha / (math.sqrt(lora.r) if lora.use_rslora else lora.r)
    return {
        f"{module}.weight": Piece(
            checkpoint.weights[f"{module}.weight"],
            (adapter.tensors[f"{module}.lora_A.weight"], adapter.tensors[f"{module}.lora_B.weight"]),
            scale,
        )
        for module in _modules(adapter)
    }


def _modules(adapter: Adapter) -> set[str]:
    return {name.rpartition(".lora_")[0] for name in adapter.tensors}


def _remote_names(weights: Mapping[str, Piece], adapters: Mapping[str, Adapter]) -> dict[str, Piece]:
    adapted = set().union(*map(_modules, adapters.values()))
    named = {remote_name(name, adapted): piece for name, piece in weights.items()}
    for name, adapter in adapters.items():
        named |= {remote_lora_name(key, name): Piece(stored) for key, stored in adapter.tensors.items()}
    return dict(sorted(named.items()))


def _shards(tensors: Mapping[str, Piece], shard_bytes: int) -> dict[str, dict[str, Piece]]:
    """``tensors`` in their order, in files of at most ``shard_bytes`` or one tensor."""
    parts: list[dict[str, Piece]] = [{}]
    size = 0
    for name, piece in tensors.items():
        if parts[-1] and size + piece.stored.nbytes > shard_bytes:
            parts.append({})
            size = 0
        parts[-1][name] = piece
        size += piece.stored.nbytes
    if len(parts) == 1:
        return {"model.safetensors": parts[0]}
    return {f"model-{n:05d}-of-{len(parts):05d}.safetensors": part for n, part in enumerate(parts, 1)}


def _write_tensors(plan: Plan, folder: Path) -> None:
    for file, pieces in plan.files.items():
        path = folder / file
        path.parent.mkdir(exist_ok=True)
        save_file({name: piece.value() for name, piece in pieces.items()}, path, metadata={"format": "pt"})
        written = list_tensors([path])
        for name, piece in pieces.items():
            same = (
                same_bytes(written[name], piece.stored)
                if piece.matrices is None
                else torch.equal(bits(read_tensor(written[name])), bits(piece.value()))
            )
            if not same:
                raise UserError(f"{path}: {name} reads back other bytes than were written; the disk may be faulty")
        logger.info("wrote and verified %s: %d tensors", file, len(pieces))
    if "model.safetensors" not in plan.files:
        places = {name: file for file, pieces in plan.files.items() if "/" not in file for name in pieces}
        size = sum(piece.stored.nbytes for file in set(places.values()) for piece in plan.files[file].values())
        write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": places})


def _write_configs(plan: Plan, folder: Path) -> None:
    config, files = plan.model.config, plan.source.files
    if plan.to == "native":
        config.save_pretrained(folder)
        for name, adapter in plan.adapters.items():
            write_adapter_config(folder / FOLDERS[name], adapter.config, base_model_name_or_path=None)
    else:
        entries = {name: _remote_lora(adapter) for name, adapter in plan.adapters.items()}
        write_json(folder / "config.json", remote_config(config.to_dict(), entries))
    for name in COPIED.split():
        if source := next((root / name for root in (files, plan.source.full) if (root / name).exists()), None):
            shutil.copyfile(source, folder / name)
    if not (folder / "generation_config.json").exists():
        plan.model.generation_config.save_pretrained(folder)
    path = files / "preprocessor_config.json"
    stated: dict[str, Any] = read_json(path, "copy it again") if path.exists() else {}
    vision = config.vision_config
    settings = processor_config(stated, plan.to, vision.crop_size, vision.patch_size)
    write_json(folder / "preprocessor_config.json", settings)


def _remote_lora(adapter: Adapter) -> dict[str, Any]:
    lora = adapter.config
    try:
        if lora.use_rslora:
            raise ValueError("the remote layout cannot state rank-stabilized scaling")
        return remote_lora(lora.r, lora.lora_alpha, lora.lora_dropout, _modules(adapter))
    except ValueError as error:
        raise UserError(f"{adapter.folder}: {error}; pass --merge") from error


def _copy_code(folder: Path, target: Path, *, required: bool) -> None:
    """Copy Microsoft's modeling code, which the remote layout needs. This project neither ships nor runs it."""
    if (folder / REMOTE_MODEL_CODE).exists():
        for path in sorted(folder.glob("*.py")):
            shutil.copyfile(path, target / path.name)
    elif required:
        raise UserError(f"--code {folder} holds no {REMOTE_MODEL_CODE}; give the folder of Microsoft's repository")
    else:
        logger.warning(
            "the source has no %s: copy it and its neighbors from Microsoft's repository, or pass --code",
            REMOTE_MODEL_CODE,
        )

"""Convert a checkpoint between Microsoft's remote-code layout and the native one of transformers, both ways.

    python -m tools.convert_checkpoint SOURCE TARGET --to native            adapters in vision-lora/ and speech-lora/
    python -m tools.convert_checkpoint output/grpo TARGET --to remote       a run: its newest checkpoint, on its base
    python -m tools.convert_checkpoint SOURCE TARGET --to native --merge    one plain model, vision adapter folded in

Tensors are copied as they are, bit for bit, shard by shard; only what --merge folds is computed (in float32, rounded to
the weight's own type). Every tensor is read back and compared, the SHA-256 of every file is written to checksums.json,
and the folder appears under its name when it is whole. A checksums.json in SOURCE is verified first.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from swift.llm.checkpoint.adapters import CONFIG, FOLDERS, PEFT_PREFIX, WEIGHTS
from swift.llm.checkpoint.assemble import empty_model, match_tensors, refuse_zero_adapters
from swift.llm.checkpoint.checksums import CHECKSUMS, checksums, verify_checksums
from swift.llm.checkpoint.layouts import Adapter, Checkpoint, read_json
from swift.llm.checkpoint.load import find_checkpoint
from swift.llm.checkpoint.remote_config import processor_config, remote_config, remote_lora
from swift.llm.checkpoint.remote_names import remote_lora_name, remote_name
from swift.llm.checkpoint.save import resolve_checkpoint
from swift.llm.checkpoint.stored_tensors import Stored, bits, list_tensors, read_tensor, same_bytes
from swift.utils.errors import UserError, reports_user_errors
from swift.utils.files import write_json
from swift.utils.logger import get_logger

CODE = "modeling_phi4mm.py"
COPIED = (
    "tokenizer.json tokenizer_config.json vocab.json merges.txt added_tokens.json special_tokens_map.json "
    "chat_template.json chat_template.jinja generation_config.json"
)

logger = get_logger()


@dataclass(frozen=True)
class Piece:
    """A tensor to write: one on disk, or that with an adapter folded in."""

    stored: Stored
    matrices: tuple[Stored, Stored] | None = None  # A and B
    scale: float = 0.0

    def value(self) -> Tensor:
        weight = read_tensor(self.stored)
        if self.matrices is None:
            return weight
        a, b = (read_tensor(matrix).float() for matrix in self.matrices)
        return (weight.float() + self.scale * (b @ a)).to(weight.dtype)


@dataclass(frozen=True)
class Plan:
    """What a target folder will hold."""

    checkpoint: Checkpoint
    model: nn.Module  # without values, for its configuration
    to: str
    files: dict[str, dict[str, Piece]]  # file in the folder -> tensors by their names there
    adapters: dict[str, Adapter]  # that stay adapters
    dropped: dict[str, str]

    @property
    def nbytes(self) -> int:
        return sum(piece.stored.nbytes for tensors in self.files.values() for piece in tensors.values())

    def describe(self) -> list[str]:
        lines = self.checkpoint.describe()
        lines += [f"left out: the {name} adapter: {reason}" for name, reason in self.dropped.items()]
        for file, tensors in self.files.items():
            folded = sum(piece.matrices is not None for piece in tensors.values())
            size = sum(piece.stored.nbytes for piece in tensors.values())
            lines.append(f"{file}: {len(tensors)} tensors, {size / 1e9:.2f} GB" + (f", {folded} merged" * bool(folded)))
        return lines


def make_plan(source: Path, to: str, *, base: Path | None = None, merge: bool = False, shard_bytes: int) -> Plan:
    """What converting ``source`` gives. Reads headers, and checks that the source is whole as loading does."""
    path = resolve_checkpoint(source)
    checkpoint = find_checkpoint(path, base)
    model = empty_model(checkpoint, checkpoint.dtype)
    match_tensors(model, checkpoint)
    refuse_zero_adapters(checkpoint)
    adapters, dropped = dict(checkpoint.adapters), {}
    weights = {name: Piece(stored) for name, stored in checkpoint.weights.items()}
    if merge:
        if "vision" not in adapters:
            raise UserError(f"{source}: there is no vision adapter to merge; leave --merge out")
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
    return Plan(checkpoint, model, to, files, adapters, dropped)


def write_plan(plan: Plan, target: Path, files: Path, code: Path | None = None) -> None:
    """Write ``target`` as planned; it appears whole or not at all. ``files`` is where tokenizer and processor are."""
    temporary = target.with_name(f".{os.getpid()}.{target.name}")
    temporary.mkdir(parents=True)
    try:
        _write_tensors(plan, temporary)
        _write_configs(plan, temporary, files)
        if plan.to == "remote":
            _copy_code(code or plan.checkpoint.folder, temporary, required=code is not None)
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


def _shards(tensors: Mapping[str, Piece], most: int) -> dict[str, dict[str, Piece]]:
    """``tensors`` in their order, in files of at most ``most`` bytes or one tensor."""
    parts: list[dict[str, Piece]] = [{}]
    size = 0
    for name, piece in tensors.items():
        if parts[-1] and size + piece.stored.nbytes > most:
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
                raise UserError(f"{path}: {name} reads back otherwise than it was written; the disk may be faulty")
        logger.info("wrote and verified %s: %d tensors", file, len(pieces))
    if "model.safetensors" not in plan.files:
        places = {name: file for file, pieces in plan.files.items() if "/" not in file for name in pieces}
        size = sum(piece.stored.nbytes for file in set(places.values()) for piece in plan.files[file].values())
        write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": places})


def _write_configs(plan: Plan, folder: Path, files: Path) -> None:
    config = plan.model.config
    if plan.to == "native":
        config.save_pretrained(folder)
        for name, adapter in plan.adapters.items():
            settings = adapter.config.to_dict() | {"base_model_name_or_path": None, "inference_mode": True}
            plain = {key: sorted(value) if isinstance(value, set) else value for key, value in settings.items()}
            write_json(folder / FOLDERS[name] / CONFIG, plain)
    else:
        entries = {name: _remote_lora(adapter) for name, adapter in plan.adapters.items()}
        write_json(folder / "config.json", remote_config(config.to_dict(), entries))
    for name in COPIED.split():
        if source := next((root / name for root in (files, plan.checkpoint.folder) if (root / name).exists()), None):
            shutil.copyfile(source, folder / name)
    if not (folder / "generation_config.json").exists():
        plan.model.generation_config.save_pretrained(folder)
    stated = files / "preprocessor_config.json"
    own: dict[str, Any] = read_json(stated, "copy it again") if stated.exists() else {}
    vision = config.vision_config
    write_json(folder / "preprocessor_config.json", processor_config(own, plan.to, vision.crop_size, vision.patch_size))


def _remote_lora(adapter: Adapter) -> dict[str, Any]:
    lora = adapter.config
    try:
        if lora.use_rslora:
            raise ValueError("rank-stabilised scaling has no place in the remote layout")
        return remote_lora(lora.r, lora.lora_alpha, lora.lora_dropout, _modules(adapter))
    except ValueError as error:
        raise UserError(f"{adapter.folder}: {error}; pass --merge") from error


def _copy_code(folder: Path, target: Path, *, required: bool) -> None:
    """Microsoft's modelling code, which --to remote needs and this project neither ships nor runs."""
    if (folder / CODE).exists():
        for path in sorted(folder.glob("*.py")):
            shutil.copyfile(path, target / path.name)
    elif required:
        raise UserError(f"--code {folder} holds no {CODE}; give the folder of Microsoft's repository")
    else:
        logger.warning(
            "%s and its neighbours are not here: copy them from Microsoft's repository, or pass --code", CODE
        )


@reports_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tools.convert_checkpoint",
        description="Convert a checkpoint between the remote-code and the native layout.",
        allow_abbrev=False,
    )
    parser.add_argument("source", type=Path, help="folder of a full checkpoint, an adapter, or a run")
    parser.add_argument("target", type=Path, help="folder to make")
    parser.add_argument("--to", choices=("native", "remote"), required=True, help="layout of the target")
    parser.add_argument("--base", type=Path, help="full checkpoint below an adapter; default: the one it names")
    parser.add_argument(
        "--merge", action="store_true", help="fold the vision adapter into the weights; leave others out"
    )
    parser.add_argument(
        "--dry_run", action="store_true", help="check the source, say what would be written, write nothing"
    )
    parser.add_argument("--shard_gb", type=float, default=4.0, help="size of a shard, GB; it is held in memory (4)")
    parser.add_argument(
        "--code", type=Path, help="folder of Microsoft's repository, whose *.py --to remote takes along"
    )
    arguments = parser.parse_args(argv)
    source, target = arguments.source, arguments.target
    if arguments.shard_gb <= 0:
        raise UserError(f"--shard_gb {arguments.shard_gb} must be above 0")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} exists and is not an empty folder; name another target")
    path = resolve_checkpoint(source)
    plan = make_plan(
        path, arguments.to, base=arguments.base, merge=arguments.merge, shard_bytes=int(arguments.shard_gb * 1e9)
    )
    for folder in {path, plan.checkpoint.folder}:
        verify_checksums(folder)
    for line in plan.describe():
        print(line)
    if arguments.dry_run:
        print(f"dry run: {target} was not written, {plan.nbytes / 1e9:.2f} GB")
        return 0
    existing = next(parent for parent in target.absolute().parents if parent.exists())
    if (free := shutil.disk_usage(existing).free) < plan.nbytes:
        raise UserError(
            f"{target} needs {plan.nbytes / 1e9:.1f} GB, {existing} has {free / 1e9:.1f} GB free; make room"
        )
    files = path if (path / "tokenizer_config.json").exists() else plan.checkpoint.folder
    write_plan(plan, target, files, arguments.code)
    print(f"{target}: {plan.to}, {plan.nbytes / 1e9:.2f} GB, verified")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The content of a Phi-4 policy's folder in one form for every layout: a native configuration, and where weights and
adapters are on disk, by native name. Only headers are read here.

native   `phi4_multimodal`: config.json, weights, vision-lora/ and speech-lora/ as PEFT folders
remote   `phi4mm`, Microsoft's repository: adapters inside the shards, described in config.json (remote_config.py)
adapter  a PEFT folder on top of either; a head in it replaces the base's
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig

from swift.llm.checkpoint.adapters import CONFIG, FOLDERS, HEAD_WEIGHT, PLAIN_LORA, Adapter, read_adapter
from swift.llm.checkpoint.base_weights import check_base, weights_fingerprint
from swift.llm.checkpoint.folders import PolicyFolder
from swift.llm.checkpoint.remote_config import native_config
from swift.llm.checkpoint.remote_names import is_derived, read_name
from swift.llm.checkpoint.stored_tensors import Stored, find_shards, list_tensors, same_bytes
from swift.llm.phi4_names import EMBEDDING, MODEL_TYPES, NATIVE, REMOTE
from swift.utils.errors import UserError
from swift.utils.files import read_json
from swift.utils.lines import one_line
from swift.utils.logger import get_logger

logger = get_logger()


@dataclass(frozen=True)
class Checkpoint:
    """A Phi-4 policy on disk. For an adapter, ``folder`` is the full checkpoint below it."""

    folder: Path
    layout: str  # NATIVE or REMOTE: the folder's model_type
    config: dict[str, Any]  # the native form in either layout
    weights: dict[str, Stored]
    adapters: dict[str, Adapter]
    ignored: dict[str, str] = field(default_factory=dict)  # stored name -> reason
    own_head: bool = False  # the head comes from an adapter folder

    @property
    def dtype(self) -> torch.dtype:
        """The type that config.json states, else that of most stored weights."""
        stated = str(self.config.get("dtype") or self.config.get("torch_dtype")).removeprefix("torch.")
        stored = Counter(stored.dtype for stored in self.weights.values())
        return getattr(torch, stated, None) or stored.most_common(1)[0][0]

    def fingerprint(self) -> dict[str, str]:
        """Fingerprint of the weights below an adapter (see base_weights.py)."""
        return weights_fingerprint({name: stored for name, stored in self.weights.items() if name != HEAD_WEIGHT})

    def describe(self) -> list[str]:
        """Lines for people: the weights, each adapter, and what is ignored for which reason."""
        files = {stored.file for stored in self.weights.values()}
        size = sum(stored.nbytes for stored in self.weights.values())
        lines = [
            f"{self.folder}: {self.config['model_type'] if self.layout == NATIVE else 'remote-code'} layout, "
            f"{len(self.weights)} weights in {len(files)} files, {size / 1e9:.2f} GB"
        ]
        for name, adapter in self.adapters.items():
            lora = adapter.config
            lines.append(f"{name} adapter of {adapter.folder}: rank {lora.r}, alpha {lora.lora_alpha}")
        reasons = defaultdict(list)
        for name, reason in self.ignored.items():
            reasons[reason].append(name)
        lines += [f"ignored {_listed(names, 3)}: {reason}" for reason, names in reasons.items()]
        return lines


def read_checkpoint(folder: PolicyFolder) -> Checkpoint:
    """List the policy in ``folder``. Raises UserError for a folder that is incomplete or of an unknown kind, and for an
    adapter that was trained on other weights than those below it."""
    checkpoint = _read_full(folder.full, folder.config)
    return checkpoint if folder.adapter is None else _with_adapter(checkpoint, folder.adapter)


def _read_full(folder: Path, config: dict[str, Any]) -> Checkpoint:
    """The full checkpoint in ``folder``, native or remote. ``config`` is its config.json."""
    layout = config.get("model_type")
    if layout not in MODEL_TYPES:
        raise UserError(_unknown_type(folder, config))
    parts = _sort_names(list_tensors(find_shards(folder)), folder)
    if not parts.weights:
        raise UserError(f"{folder}: its files hold no weights; copy them again")
    native = _native_config(folder, config, parts) if layout == REMOTE else config
    adapters = {name: _adapter_in_shards(name, tensors, config, folder) for name, tensors in parts.lora.items()}
    for name, subfolder in FOLDERS.items():
        if (folder / subfolder).is_dir():
            if name in adapters:
                raise UserError(
                    f"{folder}: the {name} adapter is in {subfolder}/ and in the shards; remove one of the two"
                )
            adapters[name] = _plain(read_adapter(folder / subfolder))
    _check_not_lost(parts, adapters, config, folder)
    checkpoint = Checkpoint(folder, layout, dict(native), parts.weights, adapters, parts.ignored)
    return _settle_head(checkpoint)


def _native_config(folder: Path, config: dict[str, Any], parts: _Parts) -> dict[str, Any]:
    shapes = {name: stored.shape for name, stored in parts.weights.items()}
    try:
        return native_config(config, shapes, control_tokens(folder))
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{folder / 'config.json'} has a value of the wrong type ({one_line(error)}); copy it again"
        ) from error


def _with_adapter(checkpoint: Checkpoint, folder: Path) -> Checkpoint:
    """``checkpoint`` with the vision adapter of ``folder``, and its head if it has one, in place of its own."""
    check_base(folder, checkpoint.folder, checkpoint.fingerprint())
    adapter = _plain(read_adapter(folder))
    ignored = dict(checkpoint.ignored)
    if "vision" in checkpoint.adapters:
        ignored["the base's vision adapter"] = f"{folder} has one in its place"
    checkpoint = replace(checkpoint, adapters=checkpoint.adapters | {"vision": adapter}, ignored=ignored)
    if adapter.head is None:
        return checkpoint
    config = checkpoint.config | {"tie_word_embeddings": False}
    weights = checkpoint.weights | {HEAD_WEIGHT: adapter.head}
    return replace(checkpoint, config=config, weights=weights, own_head=True)


def _plain(adapter: Adapter) -> Adapter:
    """``adapter``, if it has the one rank and alpha that both layouts can state."""
    if adapter.config.rank_pattern or adapter.config.alpha_pattern:
        raise UserError(f"{adapter.folder / CONFIG}: {PLAIN_LORA}")
    return adapter


def control_tokens(folder: Path) -> dict[str, int]:
    """Ids of the tokens added to the folder's tokenizer; empty if it has no tokenizer.json."""
    path = folder / "tokenizer.json"
    if not path.exists():
        return {}
    added = read_json(path, "copy it again").get("added_tokens", [])
    try:
        return {token["content"]: token["id"] for token in added}
    except (TypeError, KeyError) as error:
        raise UserError(f"{path}: added_tokens cannot be read ({one_line(error)}); copy it again") from error


@dataclass(frozen=True)
class _Parts:
    weights: dict[str, Stored]
    lora: dict[str, dict[str, Stored]]
    wrapped: list[str]
    ignored: dict[str, str]


def _sort_names(stored: dict[str, Stored], folder: Path) -> _Parts:
    """Tensors by native name: weights, and LoRA matrices by adapter."""
    parts = _Parts({}, defaultdict(dict), [], {})
    for key, tensor in stored.items():
        name = read_name(key)
        if is_derived(name.native):
            parts.ignored[key] = "the model computes it from its configuration"
            continue
        if name.lora and name.adapter not in FOLDERS:
            raise UserError(f"{folder}: {key} belongs to an adapter that is neither {' nor '.join(FOLDERS)}; rename it")
        place = parts.lora[name.adapter] if name.lora else parts.weights
        if name.native in place:
            other = place[name.native].key
            raise UserError(
                f"{folder}: {other} and {key} are two forms of one tensor, and it is not clear which one counts; "
                "save the model again"
            )
        place[name.native] = tensor
        if name.wrapped:
            parts.wrapped.append(key)
    return parts


def _adapter_in_shards(name: str, tensors: dict[str, Stored], config: dict[str, Any], folder: Path) -> Adapter:
    entry = config.get(f"{name}_lora")
    try:
        lora = LoraConfig(
            r=int(entry["r"]),
            lora_alpha=int(entry["lora_alpha"]),
            lora_dropout=float(entry.get("dp") or 0.0),
            target_modules=rf"model\.(?:{entry['layer']})",
            task_type="CAUSAL_LM",
        )
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise UserError(
            f"{folder / 'config.json'}: {name}_lora must give r, lora_alpha and layer of the adapter in the shards; "
            "copy config.json from the source of the checkpoint"
        ) from error
    return Adapter(lora, tensors, folder)


def _check_not_lost(parts: _Parts, adapters: dict[str, Adapter], config: dict[str, Any], folder: Path) -> None:
    if parts.wrapped and "vision" not in adapters:
        raise UserError(
            f"{folder}: {parts.wrapped[0]} was saved from inside an adapter, but the shards hold no vision "
            "LoRA: it was lost when they were saved; save the model again with its adapters"
        )
    for name in FOLDERS:
        if config.get(f"{name}_lora") and name not in adapters:
            reason = "the shards hold none of its tensors"
            parts.ignored[f"{name}_lora of config.json"] = reason if parts.wrapped else f"{reason}: a merged model"


def _settle_head(checkpoint: Checkpoint) -> Checkpoint:
    """Decide on a head that is stored although config.json ties it to the embedding: a copy is ignored, any other head
    is used, untied."""
    weights, tied = checkpoint.weights, checkpoint.config.get("tie_word_embeddings", False)
    if not tied or HEAD_WEIGHT not in weights or EMBEDDING not in weights:
        return checkpoint
    if same_bytes(weights[HEAD_WEIGHT], weights[EMBEDDING]):
        ignored = checkpoint.ignored | {HEAD_WEIGHT: "it equals the input embedding that it is tied to"}
        return replace(checkpoint, ignored=ignored)
    logger.warning(
        "%s: config.json ties the head to the input embedding, but the stored head differs: the stored head is used",
        checkpoint.folder,
    )
    return replace(checkpoint, config=checkpoint.config | {"tie_word_embeddings": False})


def _unknown_type(folder: Path, config: dict[str, Any]) -> str:
    file, kind = folder / "config.json", config.get("model_type")
    if isinstance(config.get("auto_map"), dict):
        return (
            f"{file}: model_type {kind!r} needs code of its own ({', '.join(sorted(config['auto_map']))}), which is "
            f"never run here; use a folder of model_type {NATIVE} or {REMOTE}"
        )
    return (
        f"{file}: model_type {kind!r} is not supported; use a Phi-4-multimodal folder, native (model_type {NATIVE}) or "
        f"Microsoft's ({REMOTE}), or of a vision-language model that transformers loads by itself"
    )


def _listed(names: list[str], most: int) -> str:
    """The first names and a count of the others."""
    more = len(names) - most
    return ", ".join(sorted(names)[:most]) + (f" and {more} more" if more > 0 else "")

"""What lies in a policy's folder, in one form whatever the layout: a native configuration, and weights and adapters by
native name, each where it lies on disk. Nothing is read here but headers.

native   `phi4_multimodal`: config.json, weights, vision-lora/ and speech-lora/ as PEFT folders
remote   `phi4mm`, Microsoft's repository: adapters inside the shards, described in config.json (remote_layout.py)
adapter  a PEFT folder on one of these; a head in it replaces the base's
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig

from swift.llm.checkpoint.adapters import CONFIG, FOLDERS, HEAD_WEIGHT, adapter_weights
from swift.llm.checkpoint.base_weights import check_base, weights_fingerprint
from swift.llm.checkpoint.remote_config import native_config
from swift.llm.checkpoint.remote_names import is_derived, read_name
from swift.llm.checkpoint.stored_tensors import Stored, find_shards, list_tensors, same_bytes
from swift.utils.errors import UserError, one_line
from swift.utils.files import read_json
from swift.utils.logger import get_logger

logger = get_logger()

NATIVE, REMOTE = "phi4_multimodal", "phi4mm"
EMBEDDING = "model.embed_tokens.weight"


@dataclass(frozen=True)
class Adapter:
    """One LoRA adapter on disk."""

    config: LoraConfig
    tensors: dict[str, Stored]  # by native name, without the adapter's: "...down_proj.lora_A.weight"
    folder: Path  # what holds it, for messages


@dataclass(frozen=True)
class Checkpoint:
    """A policy on disk. ``folder`` is the full checkpoint, also below an adapter."""

    folder: Path
    layout: str  # NATIVE or REMOTE: the folder's model_type
    config: dict[str, Any]  # native, whatever the layout
    weights: dict[str, Stored]
    adapters: dict[str, Adapter]
    ignored: dict[str, str] = field(default_factory=dict)  # stored name -> why
    own_head: bool = False  # the head is an adapter folder's

    @property
    def dtype(self) -> torch.dtype:
        """The type config.json states, else that of the stored weights."""
        stated = str(self.config.get("dtype") or self.config.get("torch_dtype")).removeprefix("torch.")
        stored = Counter(stored.dtype for stored in self.weights.values())
        return getattr(torch, stated, None) or stored.most_common(1)[0][0]

    def fingerprint(self) -> dict[str, str]:
        """What tells the weights below an adapter from others, see base_weights.py."""
        return weights_fingerprint({name: stored for name, stored in self.weights.items() if name != HEAD_WEIGHT})

    def describe(self) -> list[str]:
        """One line each for what was found, every adapter, and what is left out and why."""
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


def read_checkpoint(folder: Path) -> Checkpoint:
    """The full checkpoint in ``folder``, native or remote. Raises UserError for one that is not whole or not known."""
    config = read_json(folder / "config.json", "give the folder of a model")
    layout = config.get("model_type")
    if layout not in (NATIVE, REMOTE):
        raise UserError(_not_known(folder, config))
    parts = _sort_names(list_tensors(find_shards(folder)), folder)
    if not parts.weights:
        raise UserError(f"{folder}: its files hold no weights; copy them again")
    if layout == REMOTE:
        shapes = {name: stored.shape for name, stored in parts.weights.items()}
        tokens = control_tokens(folder)
        try:
            native = native_config(config, shapes, tokens)
        except Exception as error:  # values of the wrong type, anywhere in it
            raise UserError(
                f"{folder / 'config.json'} has a value of the wrong type ({one_line(error)}); copy it again"
            ) from error
    else:
        native = config
    adapters = {name: _adapter_in_shards(name, tensors, config, folder) for name, tensors in parts.lora.items()}
    for name, sub in FOLDERS.items():
        if (folder / sub).is_dir():
            if name in adapters:
                raise UserError(f"{folder}: the {name} adapter is in {sub}/ and in the shards; remove one of the two")
            adapters[name], _ = read_adapter(folder / sub)
    _check_not_lost(parts, adapters, config, folder)
    checkpoint = Checkpoint(folder, layout, dict(native), parts.weights, adapters, parts.ignored)
    return _settle_head(checkpoint)


def with_adapter(checkpoint: Checkpoint, folder: Path) -> Checkpoint:
    """``checkpoint`` with the vision adapter of ``folder``, and its head if it has one, in place of its own. Raises
    UserError where the folder says that it was trained on other weights."""
    check_base(folder, checkpoint.folder, checkpoint.fingerprint())
    adapter, head = read_adapter(folder)
    ignored = dict(checkpoint.ignored)
    if "vision" in checkpoint.adapters:
        ignored["the base's vision adapter"] = f"{folder} has one in its place"
    checkpoint = replace(checkpoint, adapters=checkpoint.adapters | {"vision": adapter}, ignored=ignored)
    if head is None:
        return checkpoint
    config = checkpoint.config | {"tie_word_embeddings": False}
    return replace(checkpoint, config=config, weights=checkpoint.weights | {HEAD_WEIGHT: head}, own_head=True)


def read_adapter(folder: Path) -> tuple[Adapter, Stored | None]:
    """The adapter of a PEFT folder, and the head it holds, if any."""
    settings = read_json(folder / CONFIG, "copy the folder again")
    try:
        config = LoraConfig.from_pretrained(str(folder))
    except Exception as error:  # values of the wrong type fail anywhere in PEFT
        raise UserError(f"{folder / CONFIG} is not the configuration of a LoRA adapter ({one_line(error)})") from error
    special = config.use_dora or config.rank_pattern or config.alpha_pattern
    if settings.get("peft_type") not in (None, "LORA") or special:
        raise UserError(f"{folder / CONFIG}: only plain LoRA adapters of one rank and alpha are supported")
    config.modules_to_save = None
    tensors, head = {}, None
    for key, stored in list_tensors([adapter_weights(folder)]).items():
        name = read_name(key).native
        if name == HEAD_WEIGHT:
            head = stored
        elif name in tensors:
            raise UserError(f"{stored.file}: {key} and {tensors[name].key} name one tensor; save the adapter again")
        else:
            tensors[name] = stored
    return Adapter(config, tensors, folder), head


def control_tokens(folder: Path) -> dict[str, int]:
    """Ids of the tokens added to the folder's tokenizer; none where its file is not there."""
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
            raise UserError(f"{folder}: {key} is of an adapter that is neither {' nor '.join(FOLDERS)}; rename it")
        place = parts.lora[name.adapter] if name.lora else parts.weights
        if name.native in place:
            other = place[name.native].key
            raise UserError(
                f"{folder}: {other} and {key} are two forms of one tensor, so it is not clear which counts; "
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
            "take config.json from where the checkpoint came from"
        ) from error
    return Adapter(lora, tensors, folder)


def _check_not_lost(parts: _Parts, adapters: dict[str, Adapter], config: dict[str, Any], folder: Path) -> None:
    if parts.wrapped and "vision" not in adapters:
        raise UserError(
            f"{folder}: {parts.wrapped[0]} stood inside an adapter, but the shards hold no vision LoRA: it was lost "
            "when they were saved; save the model again with its adapters"
        )
    for name in FOLDERS:
        if config.get(f"{name}_lora") and name not in adapters:
            reason = "no tensors of it are in the shards"
            parts.ignored[f"{name}_lora of config.json"] = reason if parts.wrapped else f"{reason}: a merged model"


def _settle_head(checkpoint: Checkpoint) -> Checkpoint:
    """A head that is stored although config.json ties it: no matter where it equals the embedding, else it counts."""
    weights, tied = checkpoint.weights, checkpoint.config.get("tie_word_embeddings", False)
    if not tied or HEAD_WEIGHT not in weights or EMBEDDING not in weights:
        return checkpoint
    if same_bytes(weights[HEAD_WEIGHT], weights[EMBEDDING]):
        ignored = checkpoint.ignored | {HEAD_WEIGHT: "it equals the input embedding that it is tied to"}
        return replace(checkpoint, ignored=ignored)
    logger.warning(
        "%s: config.json ties the head to the input embedding, but the stored head differs: taking the stored one, "
        "untied",
        checkpoint.folder,
    )
    return replace(checkpoint, config=checkpoint.config | {"tie_word_embeddings": False})


def _not_known(folder: Path, config: dict[str, Any]) -> str:
    file, kind = folder / "config.json", config.get("model_type")
    if isinstance(config.get("auto_map"), dict):
        return (
            f"{file}: model_type {kind!r} needs code of its own ({', '.join(sorted(config['auto_map']))}), which is "
            f"never run here; known are {NATIVE} and {REMOTE}"
        )
    return (
        f"{file}: model_type {kind!r} is not supported; use a Phi-4-multimodal folder, native (model_type {NATIVE}) or "
        f"Microsoft's ({REMOTE}), or that of a vision-language model which transformers loads by itself"
    )


def _listed(names: list[str], most: int) -> str:
    """The first names and a count of the others."""
    more = len(names) - most
    return ", ".join(sorted(names)[:most]) + (f" and {more} more" if more > 0 else "")

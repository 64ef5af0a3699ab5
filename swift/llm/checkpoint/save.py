"""Finding, writing and reading back the folders of policies.

full     config.json, model*.safetensors, vision-lora/ (and speech-lora/), tokenizer and preprocessor files
adapter  adapter_config.json, adapter_model.safetensors (a trained head is in its `modules_to_save`), config.json,
         tokenizer and preprocessor files; `base_model_name_or_path` names the full folder below it, base.json tells
         its weights from others

Both have a README.md with what the trainer knows of them. The full folder below an adapter may be in Microsoft's
layout too (layouts.py); what is written is native.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from huggingface_hub import save_torch_state_dict
from torch import Tensor, nn

from swift.llm.checkpoint import adapters
from swift.llm.checkpoint.card import write_card
from swift.llm.checkpoint.stored_tensors import copy_tensors, find_shards, list_tensors, listed
from swift.llm.policy import Policy, trainable_parameters
from swift.utils.errors import UserError
from swift.utils.files import read_json, write_json
from swift.utils.logger import get_logger
from swift.utils.run_folder import newest_checkpoint

logger = get_logger()


def resolve_checkpoint(path: str | Path) -> Path:
    """``path`` itself, or its newest complete ``checkpoint-N`` when it is a run folder."""
    path = Path(path)
    if not path.is_dir():
        raise UserError(f"model folder {path} does not exist; give the folder of a checkpoint or a run")
    if is_adapter(path) or (path / "config.json").exists():
        return path
    newest = newest_checkpoint(path)
    if newest is None:
        raise UserError(
            f"{path} has neither config.json nor a finished checkpoint-N; give the folder of a model or a run"
        )
    logger.info("%s is a run: taking its newest checkpoint, %s", path, newest.name)
    return newest


def is_adapter(path: Path) -> bool:
    """Whether ``path`` is an adapter folder."""
    return (path / adapters.CONFIG).exists()


def base_of(path: Path, override: str | Path | None) -> Path:
    """The full folder below the adapter folder ``path``: ``override``, or the one it names. Raises UserError."""
    if override:
        return resolve_checkpoint(override)
    base = read_json(path / adapters.CONFIG, "copy the folder again").get("base_model_name_or_path")
    if not base or not (Path(base) / "config.json").exists():
        raise UserError(f"{path / adapters.CONFIG}: its base model, {base}, is not there; name its folder as the base")
    return Path(base)


def is_small(model: nn.Module) -> bool:
    """Whether what trains is the vision adapter and the head only, so that an adapter folder holds all of it."""
    names = trainable_parameters(model)
    return bool(names) and all(
        re.search(r"\.lora_[AB]\.vision\.", name) or name == adapters.HEAD_WEIGHT for name in names
    )


def save_policy(
    policy: Policy,
    folder: str | Path,
    state: dict[str, Tensor] | None = None,
    *,
    full: bool = False,
    card: Mapping[str, object] | None = None,
) -> None:
    """Write the policy: an adapter folder when only adapter and head are trained, else, or where ``full`` asks for it,
    a full folder in the native layout.

    ``state`` replaces the model's own state dict (for parameters partitioned over processes); ``card`` are the facts
    that a README.md tells.
    """
    folder, model = Path(folder), policy.model
    folder.mkdir(parents=True, exist_ok=True)
    state = model.state_dict() if state is None else state
    small = is_small(model) and not full
    if small:
        with_head = policy.own_head or adapters.HEAD_WEIGHT in trainable_parameters(model)
        adapters.save_adapter(model, folder, "vision", state, policy.base, with_head)
        if policy.fingerprint is not None:
            write_json(folder / adapters.BASE, policy.fingerprint)
    else:
        save_torch_state_dict(_base_weights(model, state), folder, max_shard_size="5GB")
        for name in getattr(model, "peft_config", {}):
            adapters.save_adapter(model, folder / adapters.FOLDERS[name], name, state, folder, with_head=False)
    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    policy.tokenizer.save_pretrained(folder)
    policy.image_processor.save(folder)
    if card is not None:
        write_card(folder, card, model, adapter=small)


def _base_weights(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    weights = {key.replace(".base_layer.", "."): value for key, value in state.items() if ".lora_" not in key}
    if model.config.tie_word_embeddings:
        weights.pop(adapters.HEAD_WEIGHT, None)
    return weights


@torch.no_grad()
def load_weights(model: nn.Module, folder: Path) -> None:
    """Copy a checkpoint of this very policy back into ``model``, as when a run is resumed."""
    if is_adapter(folder):
        adapters.fill_adapter(model, folder, "vision")
        return
    targets = {key.replace(".base_layer.", "."): value for key, value in model.state_dict().items()}
    stored = list_tensors(find_shards(folder))
    held = {targets[key].data_ptr() for key in stored.keys() & targets.keys()}  # tied tensors are stored once
    missing = {key for key, value in targets.items() if ".lora_" not in key and value.data_ptr() not in held}
    problems = [listed("missing", missing), listed("without a place", stored.keys() - targets.keys())]
    if any(problems):
        raise UserError(
            f"{folder}: {'; '.join(filter(None, problems))}; the checkpoint is not whole, or the run began with other "
            "flags"
        )
    copy_tensors((tensor, targets[key]) for key, tensor in stored.items())
    for name in getattr(model, "peft_config", {}):
        adapters.fill_adapter(model, folder / adapters.FOLDERS[name], name)

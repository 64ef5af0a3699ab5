"""Writing policies to folders, and reading a checkpoint back into the model it was written from.

full     config.json, model*.safetensors, vision-lora/ (and speech-lora/), tokenizer and preprocessor files
adapter  adapter_config.json, adapter_model.safetensors (a trained head is in its `modules_to_save`), config.json,
         tokenizer and preprocessor files; `base_model_name_or_path` names the full folder below it, and base.json
         holds the fingerprint of its weights

Both get a README.md with the trainer's facts about them. Folders are always written in the native layout.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from huggingface_hub import save_torch_state_dict
from torch import Tensor, nn

from swift.llm.checkpoint.adapters import BASE, FOLDERS, HEAD_WEIGHT, match_adapter, read_adapter, save_adapter
from swift.llm.checkpoint.card import write_card
from swift.llm.checkpoint.folders import is_adapter
from swift.llm.checkpoint.stored_tensors import Stored, copy_tensors, find_shards, list_tensors, listed
from swift.llm.policy import Policy, trainable_parameters
from swift.utils.errors import UserError
from swift.utils.files import open_to_all, write_json


def is_small(model: nn.Module) -> bool:
    """True if only the vision adapter and the head train, so that an adapter folder holds everything that changes."""
    names = trainable_parameters(model)
    return bool(names) and all(re.search(r"\.lora_[AB]\.vision\.", name) or name == HEAD_WEIGHT for name in names)


def save_policy(
    policy: Policy,
    folder: str | Path,
    state: dict[str, Tensor] | None = None,
    *,
    full: bool = False,
    card: Mapping[str, object] | None = None,
) -> None:
    """Write the policy: an adapter folder if only adapter and head train, else, or if ``full`` is set, a full folder.

    ``state`` replaces the model's own state dict (for parameters that are split over processes). ``card`` holds the
    facts for README.md.
    """
    folder, model = Path(folder), policy.model
    folder.mkdir(parents=True, exist_ok=True)
    state = model.state_dict() if state is None else state
    small = is_small(model) and not full
    if small:
        with_head = policy.own_head or HEAD_WEIGHT in trainable_parameters(model)
        save_adapter(model, folder, "vision", state, policy.base, with_head)
        if policy.fingerprint is not None:
            write_json(folder / BASE, policy.fingerprint)
    else:
        save_torch_state_dict(_base_weights(model, state), folder, max_shard_size="5GB")
        for name in getattr(model, "peft_config", {}):
            save_adapter(model, folder / FOLDERS[name], name, state, folder, with_head=False)
    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    policy.tokenizer.save_pretrained(folder)
    policy.image_processor.save(folder)
    for file in folder.glob("*.safetensors"):
        open_to_all(file)
    if card is not None:
        write_card(folder, card, model, adapter=small)


def _base_weights(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    weights = {key.replace(".base_layer.", "."): value for key, value in state.items() if ".lora_" not in key}
    if model.config.tie_word_embeddings:
        weights.pop(HEAD_WEIGHT, None)
    return weights


def saved_names(names: Iterable[str]) -> list[str]:
    """Those of the ``names`` in a state dict that an adapter folder may hold: adapters and the head."""
    return [name for name in names if ".lora_" in name or name == HEAD_WEIGHT]


@torch.no_grad()
def load_weights(model: nn.Module, folder: Path) -> None:
    """Copy a checkpoint of this very policy back into ``model``, to resume its run. Raises UserError if tensors are
    missing or have no place."""
    matched = stored_weights(model, folder)
    targets = model.state_dict()
    copy_tensors((stored, targets[name]) for name, stored in matched.items())


def stored_weights(model: nn.Module, folder: Path) -> dict[str, Stored]:
    """The tensors of a checkpoint of this very policy by their names in the model's state dict. Raises UserError if
    tensors are missing or have no place."""
    if is_adapter(folder):
        return match_adapter(model, read_adapter(folder), "vision")
    targets = model.state_dict(keep_vars=True)
    names = {key.replace(".base_layer.", "."): key for key in targets}
    stored = list_tensors(find_shards(folder))
    held = {id(targets[names[key]]) for key in stored.keys() & names.keys()}  # tied tensors are stored once
    missing = {key for key, name in names.items() if ".lora_" not in key and id(targets[name]) not in held}
    problems = [listed("missing", missing), listed("without a place", stored.keys() - names.keys())]
    if any(problems):
        raise UserError(
            f"{folder}: {'; '.join(filter(None, problems))}; the checkpoint is incomplete, or the run began with other "
            "flags"
        )
    matched = {names[key]: tensor for key, tensor in stored.items()}
    for name in getattr(model, "peft_config", {}):
        matched |= match_adapter(model, read_adapter(folder / FOLDERS[name]), name)
    return matched

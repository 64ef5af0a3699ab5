"""From a checkpoint on disk to a model in memory, without ever holding the weights twice.

The model is built with empty parameters, adapters included. Every tensor's place is looked up before any tensor is
read. Then memory is allocated tensor by tensor, in the requested type, and filled from disk.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from accelerate import init_empty_weights
from torch import nn
from transformers import GenerationConfig, Phi4MultimodalConfig, Phi4MultimodalForCausalLM

from swift.llm.checkpoint.adapters import HEAD_WEIGHT, add_adapter
from swift.llm.checkpoint.layouts import Checkpoint
from swift.llm.checkpoint.remote_names import remote_lora_name
from swift.llm.checkpoint.stored_tensors import Stored, copy_tensors, listed, read_tensor
from swift.llm.deepspeed_configs import whole_weights
from swift.utils.errors import UserError
from swift.utils.lines import one_line


def empty_model(checkpoint: Checkpoint, dtype: torch.dtype, attention: str = "sdpa") -> nn.Module:
    """The checkpoint's model with its adapters; parameters on the meta device, buffers as computed from the config.
    Raises UserError if config.json or an adapter's configuration describes no such model."""
    try:
        config = Phi4MultimodalConfig.from_dict(checkpoint.config)
        with whole_weights(), init_empty_weights(include_buffers=False):
            model = Phi4MultimodalForCausalLM._from_config(config, dtype=dtype, attn_implementation=attention)
    except Exception as error:  # values of the wrong type or size fail anywhere in transformers
        raise UserError(
            f"{checkpoint.folder / 'config.json'} describes no model: {one_line(error)}; copy it again"
        ) from error
    with init_empty_weights(include_buffers=False):
        for name, adapter in checkpoint.adapters.items():
            add_adapter(model, adapter, name)
    return model


def match_tensors(model: nn.Module, checkpoint: Checkpoint) -> dict[str, Stored]:
    """The stored tensor for each parameter and buffer of ``model``, by the model's names.

    Raises UserError that lists tensors that are missing, have no place, or have another shape.
    """
    wanted = model.state_dict()
    names = {name.replace(".base_layer.", "."): name for name in wanted}
    matched = {names.get(name, name): stored for name, stored in checkpoint.weights.items()}
    for name, adapter in checkpoint.adapters.items():
        matched |= {remote_lora_name(key, name): stored for key, stored in adapter.tensors.items()}
    if model.config.tie_word_embeddings:
        wanted.pop(HEAD_WEIGHT), matched.pop(HEAD_WEIGHT, None)
    reshaped = {
        name: f"{name} {tuple(matched[name].shape)} for {tuple(wanted[name].shape)}"
        for name in wanted.keys() & matched.keys()
        if matched[name].shape != tuple(wanted[name].shape)
    }
    problems = [
        listed("missing", wanted.keys() - matched.keys()),
        listed("without a place", matched.keys() - wanted.keys()),
        listed("of another shape", reshaped.values()),
    ]
    if any(problems):
        wrong = (wanted.keys() ^ matched.keys()) or reshaped.keys()
        if all(".lora_" in name for name in wrong):
            folder = ", ".join(sorted({str(adapter.folder) for adapter in checkpoint.adapters.values()}))
            remedy = "the adapter belongs to another base, or its configuration to another adapter"
        else:
            folder, remedy = checkpoint.folder, "the folder is incomplete, or config.json is another model's"
        raise UserError(f"{folder}: {'; '.join(filter(None, problems))}; {remedy}")
    return matched


def fill(model: nn.Module, matched: Mapping[str, Stored], dtype: torch.dtype) -> None:
    """Give every parameter of an empty model memory and its values. Floating-point values become ``dtype``."""
    shells = model.state_dict()
    values = {}
    for name, stored in matched.items():
        kind = dtype if shells[name].dtype.is_floating_point else stored.dtype
        values[name] = torch.empty(stored.shape, dtype=kind)
        _set(model, name, values[name])
    copy_tensors((stored, values[name]) for name, stored in matched.items())
    model.tie_weights()


def refuse_zero_adapters(checkpoint: Checkpoint) -> None:
    """Raise UserError for an adapter whose B matrices are all zero: it was lost and then initialized again."""
    for name, adapter in checkpoint.adapters.items():
        matrices = {key: stored for key, stored in adapter.tensors.items() if ".lora_B." in key}
        if not any(bool(read_tensor(stored).any()) for stored in matrices.values()):
            raise UserError(
                f"{adapter.folder}: of the {name} adapter's B matrices {listed('are all zero', matrices)}; the adapter "
                "has no effect and was probably lost when the checkpoint was saved; use the original checkpoint"
            )


def read_generation_config(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Take the generation settings from generation_config.json if the folder has one."""
    if (checkpoint.folder / "generation_config.json").exists():
        try:
            model.generation_config = GenerationConfig.from_pretrained(checkpoint.folder, local_files_only=True)
        except Exception as error:  # values of the wrong type fail anywhere in transformers
            raise UserError(
                f"{checkpoint.folder / 'generation_config.json'} cannot be read ({one_line(error)}); copy it again"
            ) from error


def _set(model: nn.Module, name: str, value: torch.Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    setattr(module, leaf, nn.Parameter(value, requires_grad=False) if leaf in module._parameters else value)

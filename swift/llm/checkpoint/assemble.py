"""From a checkpoint on disk to a model in memory, without ever holding the weights twice.

The model is built with empty parameters, its adapters included; every tensor's place is looked up before one is read;
then memory is taken tensor by tensor, in the type wanted, and filled from disk.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
from accelerate import init_empty_weights
from torch import nn
from transformers import GenerationConfig, Phi4MultimodalConfig, Phi4MultimodalForCausalLM

from swift.llm.checkpoint.adapters import HEAD_WEIGHT
from swift.llm.checkpoint.layouts import Checkpoint
from swift.llm.checkpoint.stored_tensors import Stored, copy_tensors, listed, read_tensor
from swift.utils.errors import UserError, one_line


def empty_model(checkpoint: Checkpoint, dtype: torch.dtype, attention: str = "sdpa") -> nn.Module:
    """The checkpoint's model with its adapters; parameters on the meta device, buffers as computed from the config."""
    try:
        config = Phi4MultimodalConfig.from_dict(checkpoint.config)
        with init_empty_weights(include_buffers=False):
            model = Phi4MultimodalForCausalLM._from_config(config, dtype=dtype, attn_implementation=attention)
    except Exception as error:  # values of the wrong type or size fail anywhere in transformers
        raise UserError(
            f"{checkpoint.folder / 'config.json'} describes no model: {one_line(error)}; copy it again"
        ) from error
    with init_empty_weights(include_buffers=False), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`")  # two adapters are meant
        for name, adapter in checkpoint.adapters.items():
            try:
                model.add_adapter(adapter.config, adapter_name=name)
            except Exception as error:  # as above, in PEFT
                raise UserError(
                    f"{adapter.folder}: the configuration of its {name} adapter does not fit the model "
                    f"({one_line(error)}); copy the folder again"
                ) from error
    return model


def match_tensors(model: nn.Module, checkpoint: Checkpoint) -> dict[str, Stored]:
    """What fills each parameter and buffer of ``model``, by the model's names.

    Raises UserError that lists what is missing, has no place, or has another shape.
    """
    wanted = model.state_dict()
    names = {name.replace(".base_layer.", "."): name for name in wanted}
    found = {names.get(name, name): stored for name, stored in checkpoint.weights.items()}
    for name, adapter in checkpoint.adapters.items():
        found |= {key.removesuffix("weight") + f"{name}.weight": stored for key, stored in adapter.tensors.items()}
    if model.config.tie_word_embeddings:
        wanted.pop(HEAD_WEIGHT), found.pop(HEAD_WEIGHT, None)
    problems = [
        listed("missing", wanted.keys() - found.keys()),
        listed("without a place", found.keys() - wanted.keys()),
        listed(
            "of another shape",
            {
                f"{name} {tuple(found[name].shape)} for {tuple(wanted[name].shape)}"
                for name in wanted.keys() & found.keys()
                if found[name].shape != tuple(wanted[name].shape)
            },
        ),
    ]
    if any(problems):
        wrong = (wanted.keys() ^ found.keys()) or {n for n in wanted if found[n].shape != tuple(wanted[n].shape)}
        if all(".lora_" in name for name in wrong):
            where = ", ".join(sorted({str(adapter.folder) for adapter in checkpoint.adapters.values()}))
            remedy = "the adapter belongs to another base, or its configuration to another adapter"
        else:
            where, remedy = checkpoint.folder, "the folder is not whole, or config.json is another model's"
        raise UserError(f"{where}: {'; '.join(filter(None, problems))}; {remedy}")
    return found


def fill(model: nn.Module, found: Mapping[str, Stored], dtype: torch.dtype) -> None:
    """Give every parameter of an empty model memory and its values; floating-point ones become ``dtype``."""
    shells = model.state_dict()
    values = {}
    for name, stored in found.items():
        kind = dtype if shells[name].dtype.is_floating_point else stored.dtype
        values[name] = torch.empty(stored.shape, dtype=kind)
        _set(model, name, values[name])
    copy_tensors((stored, values[name]) for name, stored in found.items())
    model.tie_weights()


def refuse_zero_adapters(checkpoint: Checkpoint) -> None:
    """Raise UserError for an adapter whose B matrices are all zero: one that was lost and made anew."""
    for name, adapter in checkpoint.adapters.items():
        matrices = {key: stored for key, stored in adapter.tensors.items() if ".lora_B." in key}
        if not any(bool(read_tensor(stored).any()) for stored in matrices.values()):
            raise UserError(
                f"{adapter.folder}: of the {name} adapter's B matrices {listed('are all zero', matrices)}; it does "
                "nothing, as one that was lost when the checkpoint was saved; take the checkpoint it came from"
            )


def read_generation_config(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Take generation_config.json where the folder has one, and the ends of the configuration."""
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

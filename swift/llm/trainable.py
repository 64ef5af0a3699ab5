"""Choosing the parameters of a policy that train."""

from __future__ import annotations

import re
from collections.abc import Collection

from torch import nn

from swift.llm.arguments import ModelArguments
from swift.llm.checkpoint.adapters import HEAD_WEIGHT, add_vision_adapter
from swift.llm.ms_swift_arguments import ALL_LINEAR
from swift.llm.policy import input_embeddings
from swift.utils.errors import UserError
from utils.freezing import untie_head

# Sets that --trainable accepts by name
NAMED_SETS = {"vision-lora+head": r"\.lora_[AB]\.vision\.|^lm_head\."}


def choose_trainable(model: nn.Module, arguments: ModelArguments) -> None:
    """Set ``requires_grad`` by ``--train_type`` and ``--trainable``. If the latter is given, it decides alone.

    A tied head that trains without the input embedding is untied first. A wrapper around the trainer's constructor
    (the freezing hook of plugin.py) may change the choice again. Raises UserError if nothing would train.
    """
    if arguments.train_type == "lora":
        if getattr(model, "peft_config", None):
            raise UserError("--train_type lora: the checkpoint carries adapters already; use --train_type dummy")
        targets = arguments.target_regex or decoder_linears(model, arguments.target_modules)
        add_vision_adapter(model, arguments.lora_rank, arguments.lora_alpha, targets, arguments.lora_dropout)
    chosen = NAMED_SETS.get(arguments.trainable, arguments.trainable)
    pattern = re.compile(chosen or _patterns(model)[arguments.train_type])
    embedding = next(name for name, value in model.named_parameters() if value is input_embeddings(model).weight)
    if pattern.search(HEAD_WEIGHT) and not pattern.search(embedding):
        untie_head(model)
    names = [name for name, _ in model.named_parameters() if pattern.search(name)]
    if not names:
        wanted = f"--trainable {arguments.trainable}" if arguments.trainable else f"--train_type {arguments.train_type}"
        raise UserError(f"{wanted} matches no parameter; the checkpoint carries no such adapter or tensor")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(pattern.search(name) is not None)


def decoder_linears(model: nn.Module, names: Collection[str] = (ALL_LINEAR,)) -> str:
    """A regular expression for the linear layers in the decoder's blocks, which a new LoRA adapts. The vision tower,
    the projector and the head are not among them. ``names`` chooses layers by the end of their names, such as q_proj.
    Raises UserError for a name that no layer has."""
    decoder = model.get_decoder()
    prefix = next(name for name, module in model.named_modules() if module is decoder)
    places = {
        re.sub(r"^layers\.\d+\.", "", name)
        for name, module in decoder.named_modules()
        if isinstance(module, nn.Linear) and name.startswith("layers.")
    }
    if not places:
        raise UserError("--train_type lora: the decoder has no linear layers in blocks; use --trainable REGEX")
    if ALL_LINEAR not in names:
        ends = {place.rpartition(".")[2] for place in places}
        for name in names:
            if not any(_ends_in(place, name) for place in places):
                raise UserError(
                    f"--target_modules {name}: no such layer in the decoder; it has {', '.join(sorted(ends))}"
                )
        places = {place for place in places if any(_ends_in(place, name) for name in names)}
    return rf".*{re.escape(prefix)}\.layers\.\d+\.({'|'.join(map(re.escape, sorted(places)))})"


def _ends_in(place: str, name: str) -> bool:
    return place == name or place.endswith(f".{name}")


def _patterns(model: nn.Module) -> dict[str, str]:
    active = "|".join(model.active_adapters()) if getattr(model, "peft_config", None) else "none"
    adapter = rf"\.lora_[AB]\.({active})\."
    return {"dummy": adapter, "lora": adapter, "full": ""}

"""Leave exactly the vision LoRA and the output head trainable.

Works on any ``transformers`` model whose LoRA layers are named as PEFT names them (``...lora_A.vision.weight``),
with adapters in place or inside a ``PeftModel``. It does not depend on the trainer, so it serves ms-swift as well.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Callable

from torch import nn

_VISION_LORA = re.compile(r"\.lora_[AB]\.vision(?:[-_]?lora)?\.")
_HEAD = re.compile(r"(?:^|\.)lm_head\.(?!.*\boriginal_module\b)")
_ADAPTER = re.compile(r"\.lora_[AB]\.([^.]+)\.")


def freeze_non_vision(model: nn.Module) -> list[str]:
    """Set ``requires_grad`` on the vision LoRA and ``lm_head`` only, and return the trainable tensors' names in order.

    A head tied to the input embedding is untied first (see ``untie_head``).

    Raises:
        ValueError: the model has no vision LoRA or no ``lm_head``.
    """
    adapters = {match.group(1) for name, _ in model.named_parameters() if (match := _ADAPTER.search(name))}
    if not any(_VISION_LORA.search(name) for name, _ in model.named_parameters()):
        carried = f"its adapters are {', '.join(sorted(adapters))}" if adapters else "it carries no adapter"
        raise ValueError(
            f"FREEZE_NON_VISION_PARAMS=1 finds no vision LoRA in the model ({carried}), so none of it would train;"
            " load a checkpoint with its adapter named 'vision', or unset the variable"
        )
    untie_head(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(bool(_VISION_LORA.search(name) or _HEAD.search(name)))
    trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    if not any(_HEAD.search(name) for name in trainable):
        raise ValueError(
            "FREEZE_NON_VISION_PARAMS=1 finds no lm_head in the model; load the model with its language-modeling"
            " head (AutoModelForCausalLM), or unset the variable"
        )
    return trainable


def untie_head(model: nn.Module) -> bool:
    """Give a tied output head its own copy of the weight, so that training it leaves the input embedding alone.

    The configuration then says ``tie_word_embeddings = False``, and ``save_pretrained`` writes both tensors.

    Returns:
        True if the head was tied, False if there was nothing to do.

    Raises:
        ValueError: the weight is partitioned by DeepSpeed ZeRO-3 and cannot be copied here.
    """
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if head is None or head.weight is not embedding.weight:
        return False
    if hasattr(head.weight, "ds_id"):
        raise ValueError(
            "the output head is tied to the input embedding and ZeRO-3 has already split it; use --deepspeed zero2,"
            " or a checkpoint saved with tie_word_embeddings false"
        )
    head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=head.weight.requires_grad)
    for module in model.modules():
        config = getattr(module, "config", None)
        if getattr(config, "tie_word_embeddings", False):
            config.tie_word_embeddings = False
        # transformers 5 keeps the resolved ties on the model. If it loads into the model again, it follows these ties
        # and not the configuration.
        for target in list(getattr(module, "all_tied_weights_keys", ())):
            if target.endswith("lm_head.weight"):
                del module.all_tied_weights_keys[target]
    return True


def describe_trainable(model: nn.Module) -> str:
    """One line per group of trainable tensors (layer numbers folded into ``*``) and a last line with the share."""
    tensors: Counter[str] = Counter()
    numbers: Counter[str] = Counter()
    total = 0
    for name, parameter in model.named_parameters():
        count = getattr(parameter, "ds_numel", parameter.numel())
        total += count
        if parameter.requires_grad:
            group = re.sub(r"\.\d+(?=\.)", ".*", name)
            tensors[group] += 1
            numbers[group] += count
    trainable = sum(numbers.values())
    lines = [f"{group} x {tensors[group]}: {numbers[group]:,}" for group in tensors]
    return "\n".join([*lines, f"trainable {trainable:,} of {total:,} parameters ({trainable / total:.2%})"])


def freeze_after_construction(trainer_class: type, report: Callable[[object], None]) -> None:
    """Make every new ``trainer_class`` freeze its ``model`` at the end of ``__init__``, then call ``report(trainer)``.

    A second call has no further effect. A plugin that is loaded twice makes one.
    """
    if "freezes_non_vision" in vars(trainer_class):
        return
    construct = trainer_class.__init__

    @functools.wraps(construct)
    def construct_and_freeze(self, *args, **kwargs) -> None:
        construct(self, *args, **kwargs)
        freeze_non_vision(self.model)
        report(self)

    trainer_class.__init__ = construct_and_freeze
    trainer_class.freezes_non_vision = True

"""Facts about this project's models that DeepSpeed and FSDP2 need, and FSDP2 on CPUs."""

from __future__ import annotations

from typing import Any

from accelerate import Accelerator
from accelerate.state import PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch import nn

from swift.llm.policy import is_phi4


def image_stages(model: nn.Module) -> list[nn.Module]:
    """The parts of a model that run as often as there are images. What is gathered when it runs must run equally often
    in every process, so each of these is gathered as a whole."""
    if is_phi4(model):
        return [model.model.embed_tokens_extend]
    decoder = model.get_decoder()
    return [part for part in getattr(model, "model", model).children() if part is not decoder]


def gathered_units(model: nn.Module) -> list[str]:
    """Names of the classes whose modules FSDP2 gathers as a whole: the decoder's layers and the image stages."""
    layers = getattr(model.get_decoder(), "layers", ())
    return sorted({type(module).__name__ for module in (*layers, *image_stages(model))})


def mark_zero3_leaves(model: nn.Module) -> None:
    """Make ZeRO-3 gather each image stage at once."""
    from deepspeed.utils import set_z3_leaf_modules  # optional

    set_z3_leaf_modules(model, [type(stage) for stage in image_stages(model)])


def force_fsdp(accelerator: Accelerator, settings: dict[str, Any]) -> None:
    """Let accelerate divide models on CPUs too: it knows FSDP for accelerators only, and falls back to
    DistributedDataParallel without a word. ``settings`` are those of its FSDP plugin."""
    if accelerator.distributed_type is DistributedType.FSDP:
        return
    plugin = FullyShardedDataParallelPlugin(**settings)
    accelerator.state.fsdp_plugin = plugin
    accelerator.state.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP

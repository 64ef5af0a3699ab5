"""Calling parts of a divided model from outside its forward, as a rollout does, whole or layer by layer.

Whole, every process gathers all weights once and keeps them for the rollout; processes need not call the model equally
often. Layer by layer, a layer is gathered when it runs and freed afterwards, at every token: little memory, much
traffic, and all processes must make the same calls.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule

from swift.engine.rollout.slices import free_bytes
from swift.trainers.sharding.parameters import is_zero3, release, whole_shape

SPARE = 0.9  # share of the free memory that a rollout may fill


def whole_bytes(model: nn.Module) -> int:
    """Bytes of all weights of a model that is divided over processes."""
    return sum(whole_shape(parameter).numel() * parameter.element_size() for parameter in model.parameters())


def fits_whole(model: nn.Module, others: float, device: torch.device) -> bool:
    """True if the free memory of this process takes all weights of the divided ``model`` and ``others`` more bytes."""
    return whole_bytes(model) + others <= SPARE * free_bytes(device)


@contextmanager
def gathered(wrapped: nn.Module, *, whole: bool) -> Iterator[None]:
    """Within the block, parts of the wrapped model may be called from outside its forward, in any order. They hold all
    weights if ``whole``, and gather them layer by layer otherwise. Does nothing for a model that is not divided.

    All processes must enter and leave together. Parameters must not be changed within the block.
    """
    if isinstance(wrapped, FSDPModule):
        with _gathered_fsdp(wrapped, whole):
            yield
    elif whole and any(is_zero3(parameter) for parameter in wrapped.parameters()):
        with _gathered_zero3(wrapped):
            yield
    else:
        yield


@contextmanager
def _gathered_zero3(engine: nn.Module) -> Iterator[None]:
    """All parameters, and no hooks. `deepspeed.runtime.zero.unwrap_model_for_generation` leaves the hook in place that
    compares step numbers over processes in every forward, so that processes would have to call equally often."""
    import deepspeed  # optional
    from deepspeed.runtime.zero import parameter_offload

    offload = engine.optimizer.parameter_offload
    release(engine)
    with deepspeed.zero.GatheredParameters(list(engine.parameters())):
        for hook in (*offload.forward_hooks, *offload.backward_hooks, offload.fwd_pre_hook):
            hook.remove()
        offload.forward_hooks, offload.backward_hooks = [], []
        try:
            yield
        finally:
            offload.setup_zero_stage3_hooks()
            parameter_offload.FWD_MODULE_STACK.pop()  # the hooks' set-up adds the model once more


@contextmanager
def _gathered_fsdp(model: FSDPModule, whole: bool) -> Iterator[None]:
    modules = [module for module in model.modules() if isinstance(module, FSDPModule)]
    model._get_fsdp_state()._lazy_init()  # a part that is called first would take itself for the root
    groups = {id(group): group for module in modules for group in module._get_fsdp_state()._fsdp_param_groups}
    settings = {key: group.post_forward_mesh_info for key, group in groups.items()}
    # The Trainer makes `generate` a forward of the root, which would free the root's parameters at its end.
    wrapper = model.__dict__.pop("generate", None)
    try:
        for group in groups.values() if whole else ():
            group.post_forward_mesh_info = None  # keep after forward
        for module in modules if whole else (model,):
            module.unshard()
        yield
    finally:
        if wrapper is not None:
            model.generate = wrapper
        for key, group in groups.items():
            group.post_forward_mesh_info = settings[key]
        release(model)

"""Parameters that are divided over processes: the part that this process holds, the whole, and writing to them.

Three kinds of parameters occur. Under DistributedDataParallel and ZeRO-1/2 a parameter is whole in every process. Under
ZeRO-3 ``parameter.ds_tensor`` is this process's part of the flattened and padded values, and the parameter itself is
empty between forwards. Under FSDP2 a parameter is a DTensor, cut along its first dimension.

Functions marked *collective* must be called by all processes, in the same order.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

from swift.utils.errors import UserError


def is_zero3(parameter: Tensor) -> bool:
    """True for a parameter that DeepSpeed ZeRO-3 has divided."""
    return hasattr(parameter, "ds_tensor")


def has_zero_master(parameter: Tensor) -> bool:
    """True for a parameter of which DeepSpeed's optimizer keeps a float32 copy (ZeRO-1 to 3)."""
    return hasattr(parameter, "_hp_mapping") or (is_zero3(parameter) and hasattr(parameter, "_z3_optimizer"))


def is_sharded(model: nn.Module) -> bool:
    """True if processes hold parts of the parameters."""
    return any(is_zero3(parameter) or isinstance(parameter, DTensor) for parameter in model.parameters())


def whole_shape(parameter: Tensor) -> torch.Size:
    """The shape of the whole parameter."""
    return parameter.ds_shape if is_zero3(parameter) else parameter.shape


def local_part(parameter: Tensor) -> Tensor:
    """The memory in which this process holds its part of a parameter, without gradient."""
    if is_zero3(parameter):
        return parameter.ds_tensor.data
    return parameter.detach().to_local() if isinstance(parameter, DTensor) else parameter.detach()


def cut(parameter: Tensor, whole: Tensor) -> Tensor:
    """This process's part of ``whole`` as a copy, cut as ``parameter`` is. Processes do not communicate."""
    if is_zero3(parameter):
        size, rank = parameter.ds_tensor.numel(), parameter.ds_zero_partition_rank
        flat = whole.flatten()[rank * size : (rank + 1) * size]
        return nn.functional.pad(flat, (0, size - flat.numel())).to(parameter.ds_tensor.device, copy=True)
    if isinstance(parameter, DTensor):
        whole = whole.to(parameter.device)
        return distribute_tensor(whole, parameter.device_mesh, parameter.placements, src_data_rank=None).to_local()
    return whole.to(parameter.device, copy=True)


def gather(value: Tensor) -> Tensor:
    """The whole of a parameter, or of a DTensor, in this process. *Collective.*"""
    if is_zero3(value):
        import deepspeed  # optional

        with deepspeed.zero.GatheredParameters([value]):
            return value.detach().clone()
    return value.detach().full_tensor() if isinstance(value, DTensor) else value.detach()


@torch.no_grad()
def whole_values(named: Iterable[tuple[str, Tensor]], *, keep: bool) -> dict[str, Tensor]:
    """Whole values as copies on the CPU, gathered one after the other; an empty dict unless ``keep``. *Collective.*

    Raises:
        UserError: a tensor came back empty or in another shape.
    """
    values: dict[str, Tensor] = {}
    for name, parameter in named:
        value = gather(parameter)
        if keep:
            expected = whole_shape(parameter)
            if value.shape != expected or value.numel() == 0:
                raise UserError(f"{name}: gathered as {tuple(value.shape)} instead of {tuple(expected)}; do not save")
            values[name] = value.to("cpu", copy=True)
    return values


@torch.no_grad()
def write_whole(model: nn.Module, values: Iterable[tuple[str, Tensor]]) -> None:
    """Set parameters and buffers from whole values that every process has, DeepSpeed's float32 copies included.

    Raises:
        UserError: a value has another shape than its parameter.
    """
    targets = model.state_dict(keep_vars=True)
    release(model)
    for name, value in values:
        target = targets[name]
        if value.shape != whole_shape(target):
            raise UserError(f"{name} has shape {tuple(value.shape)} instead of {tuple(whole_shape(target))}")
        part = local_part(target)
        part.copy_(cut(target, value.to(part.dtype)))
        if has_zero_master(target):
            _write_zero_master(target, value)


def _write_zero_master(parameter: Tensor, value: Tensor) -> None:
    from deepspeed.utils import safe_set_full_fp32_param, safe_set_local_fp32_param  # optional

    if is_zero3(parameter):
        safe_set_local_fp32_param(parameter, cut(parameter, value.float()))
    else:
        safe_set_full_fp32_param(parameter, value.to(parameter.device, torch.float32))


def release(model: nn.Module) -> None:
    """Drop gathered copies of parameters, so that the next forward gathers the parts anew. FSDP2 keeps its root group,
    and ZeRO-3 its small parameters, after a forward."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
    for parameter in model.parameters():
        if is_zero3(parameter) and parameter.ds_status.name == "AVAILABLE":
            parameter.partition()

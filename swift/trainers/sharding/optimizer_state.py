"""The optimizer's state in one form under every engine: torch's own, whole, as ``optimizer.pt`` of a single process.

A run can then be resumed on another number of processes or under another engine. Functions marked *collective* must be
called by all processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from swift.trainers.sharding.parameters import cut, gather, has_zero_master, is_zero3
from swift.utils.errors import UserError

MOMENTS = ("exp_avg", "exp_avg_sq")  # of Adam, as torch and DeepSpeed name them
Groups = Sequence[Sequence[str]]  # names of the parameters in each of the optimizer's groups


def optimizer_groups(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[list[str]]:
    """Names of the parameters by group, before an engine takes the optimizer over."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [[names[id(parameter)] for parameter in group["params"]] for group in optimizer.param_groups]


@torch.no_grad()
def whole_state(model: nn.Module, optimizer: Any, groups: Groups, *, keep: bool) -> dict[str, Any]:
    """A state dict that the optimizer of an undivided model takes; an empty dict unless ``keep``. *Collective.*"""
    parameters, base = dict(model.named_parameters()), base_optimizer(optimizer)
    make_zero_moments(optimizer)
    state = {}
    for index, name in enumerate(name for group in groups for name in group):
        entry = {key: value.to("cpu", copy=True) if keep else None for key, value in _entries(parameters[name], base)}
        if keep:
            state[index] = entry
    if not keep:
        return {}
    settings, start = [], 0
    for group, names in zip(_settings(base, groups), groups, strict=True):
        numbers = list(range(start, start + len(names)))
        settings.append({**group, "params": numbers})
        start += len(names)
    return {"state": state, "param_groups": settings}


def _entries(parameter: Tensor, base: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
    if not has_zero_master(parameter):
        for key, value in base.state.get(parameter, {}).items():
            yield key, gather(value) if torch.is_tensor(value) else torch.tensor(value)
        return
    from deepspeed.utils import safe_get_full_optimizer_state  # optional

    yield "step", torch.tensor(_steps_made(base))
    for key in MOMENTS:
        yield key, safe_get_full_optimizer_state(parameter, key)


@torch.no_grad()
def load_whole_state(model: nn.Module, optimizer: Any, groups: Groups, stored: dict[str, Any]) -> None:
    """Take up a state dict that :func:`whole_state`, or a single process, wrote. Every process has it whole.

    Raises:
        UserError: the state is of other parameters.
    """
    parameters, base = dict(model.named_parameters()), base_optimizer(optimizer)
    ordered = [parameters[name] for group in groups for name in group]
    if len(ordered) != sum(len(group["params"]) for group in stored["param_groups"]):
        raise UserError("optimizer.pt is of other parameters; resume with the flags that the run was started with")
    if any(has_zero_master(parameter) for parameter in ordered):
        make_zero_moments(optimizer)
        _load_into_zero(ordered, base, stored)
        return
    state = {
        index: {key: _divided(ordered[index], value) for key, value in entry.items()}
        for index, entry in stored["state"].items()
    }
    base.load_state_dict({"state": state, "param_groups": stored["param_groups"]})


def _divided(parameter: Tensor, value: Any) -> Any:
    """A moment as the part of it that belongs to the part of ``parameter``; other values as they are."""
    if isinstance(parameter, DTensor) and torch.is_tensor(value) and value.shape == parameter.shape:
        value = value.to(parameter.device)
        return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)
    return value


def _load_into_zero(ordered: list[Tensor], base: torch.optim.Optimizer, stored: dict[str, Any]) -> None:
    from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state  # optional

    for index, parameter in enumerate(ordered):
        entry = stored["state"].get(index, {})
        for key in entry.keys() & set(MOMENTS):
            if is_zero3(parameter):  # DeepSpeed's own cutting fails at sizes that the processes do not divide
                safe_set_local_optimizer_state(parameter, cut(parameter, entry[key]), key)
            else:
                safe_set_full_optimizer_state(parameter, entry[key].to(parameter.device), key)
    steps = [float(entry["step"]) for entry in stored["state"].values() if "step" in entry]
    for entry in base.state.values():
        if steps and "step" in entry:
            entry["step"] = torch.tensor(steps[0])
    filled = [group for group in stored["param_groups"] if group["params"]]
    for group, settings in zip(base.param_groups, filled, strict=True):
        group.update({key: value for key, value in settings.items() if key != "params"})


def make_zero_moments(optimizer: Any) -> None:
    """Make the moments of DeepSpeed's optimizer as its first step would, which is too late for a run that is resumed,
    and link ZeRO-1/2's parameters to their parts. Does nothing for another optimizer."""
    lists = ("single_partition_of_fp32_groups", "fp32_partitioned_groups_flat")  # ZeRO-1/2 and ZeRO-3
    while optimizer is not None and not any(hasattr(optimizer, name) for name in lists):
        optimizer = getattr(optimizer, "optimizer", None)
    if optimizer is None:
        return
    base, steps = optimizer.optimizer, torch.tensor(_steps_made(optimizer.optimizer))
    for partition in next(getattr(optimizer, name) for name in lists if hasattr(optimizer, name)):
        if MOMENTS[0] not in base.state[partition]:
            base.state[partition].update(step=steps.clone(), **{key: torch.zeros_like(partition) for key in MOMENTS})
    if hasattr(optimizer, "_lazy_init_hp_params_optimizer_state"):
        optimizer._hp_optimizer_states_linked = False
        optimizer._lazy_init_hp_params_optimizer_state()


def scheduler_state(stored: dict[str, Any], count: int) -> dict[str, Any]:
    """A scheduler's state for ``count`` groups of parameters. Its lists have an entry per group, all alike, and
    DeepSpeed drops empty groups."""
    return {
        key: [*value, *[value[-1]] * count][:count] if key in ("base_lrs", "_last_lr", "lr_lambdas") else value
        for key, value in stored.items()
    }


def base_optimizer(optimizer: Any) -> torch.optim.Optimizer:
    """torch's optimizer below the wrappers of accelerate and DeepSpeed."""
    while hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    return optimizer


def _settings(base: torch.optim.Optimizer, groups: Groups) -> list[dict[str, Any]]:
    """The settings of each group. DeepSpeed drops groups without parameters, which are then those without decay."""
    if len(base.param_groups) == len(groups):
        return base.param_groups
    left = iter(base.param_groups)
    return [next(left) if names else {**base.param_groups[0], "weight_decay": 0.0} for names in groups]


def _steps_made(base: torch.optim.Optimizer) -> float:
    return next((float(entry["step"]) for entry in base.state.values() if "step" in entry), 0.0)

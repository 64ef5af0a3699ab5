"""Other tensors in the places of a model's parameters, for a while.

The parameters themselves stay untouched. Exchanging their ``.data`` for a tensor of another type would make autograd
drop their gradient accumulators, and with them DistributedDataParallel's hooks: gradients would no longer be averaged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn

Place = tuple[nn.Module, str]  # a module and the name under which it holds a parameter


def places_of(model: nn.Module, values: Mapping[str, Tensor]) -> dict[Place, Tensor]:
    """``values`` by parameter name as values by place; a tied parameter has several places. Raises ValueError for names
    that the model lacks."""
    parameters = dict(model.named_parameters())
    missing = values.keys() - parameters.keys()
    if missing:
        raise ValueError(f"the model lacks {len(missing)} of the tensors, e.g. {min(missing)}")
    wanted = {id(parameters[name]): value for name, value in values.items()}
    return {
        (module, name): wanted[id(parameter)]
        for module in model.modules()
        for name, parameter in module._parameters.items()
        if parameter is not None and id(parameter) in wanted
    }


@contextmanager
def replaced(values: Mapping[Place, Tensor]) -> Iterator[None]:
    """Within the block, let modules hold ``values`` in place of their parameters."""
    own = {(module, name): module._parameters[name] for module, name in values}
    try:
        for (module, name), value in values.items():
            module._parameters[name] = value
        yield
    finally:
        for (module, name), value in own.items():
            module._parameters[name] = value

"""Float32 values of what trains, in a model that computes in a narrower type.

bfloat16 holds 8 bits of mantissa: near 0.02 its neighbors lie 1.2e-4 apart, and Adam moves an entry by about the
learning rate, so most updates of 4e-6 to 6e-5 would round to nothing. The parameters that train are therefore kept,
differentiated and updated in float32 (the master weights of mixed-precision training, arXiv 1710.03740). Every matrix
product still runs in the model's own type: a module casts its parameters when it is called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from swift.trainers.stand_ins import Place, replaced

PRODUCTS = (nn.Linear, nn.modules.conv._ConvNd)  # their input must have the type of their weight
WHOLES = (nn.MultiheadAttention,)  # they read the weights of the modules inside them


def keep_in_float32(model: nn.Module) -> torch.dtype | None:
    """Turn every parameter of ``model`` that requires gradients into float32 and let its module compute in the type it
    had. Parameters stay the same objects; frozen ones stay as they are.

    Returns that type, or None if all that trains is float32 already. Raises ValueError if what trains has several
    types, or one whose gradients would need loss scaling (float16).
    """
    types = {parameter.dtype for parameter in model.parameters() if parameter.requires_grad} - {torch.float32}
    if not types:
        return None
    if len(types) > 1 or torch.float16 in types:
        names = ", ".join(sorted(str(kind).removeprefix("torch.") for kind in types))
        raise ValueError(f"what trains is stored in {names}; pass --torch_dtype bfloat16 or float32")
    compute = types.pop()
    for module in model.modules():
        places = list(_places(module))
        if places:
            for owner, name in places:
                owner._parameters[name].data = owner._parameters[name].data.float()
            module.forward = _casting(module, places, compute)
        if hasattr(module, "cast_input_dtype_enabled"):
            module.cast_input_dtype_enabled = False  # PEFT would compute an adapter in the type its weights are kept in
    return compute


def _places(module: nn.Module) -> Iterator[Place]:
    """The trainable parameters that the forward of ``module`` itself reads."""
    for owner in module.modules() if isinstance(module, WHOLES) else [module]:
        for name, value in owner._parameters.items():
            if value is not None and value.requires_grad:
                yield owner, name


def _casting(module: nn.Module, places: list[Place], compute: torch.dtype) -> Callable[..., Any]:
    """The module's forward with the parameters at ``places`` in the type ``compute``; gradients flow through the
    casts."""
    forward, casts_input = module.forward, isinstance(module, PRODUCTS)

    def in_compute_type(*args: Any, **kwargs: Any) -> Any:
        if casts_input:
            args = tuple(value.to(compute) if isinstance(value, Tensor) else value for value in args)
        values = {(owner, name): owner._parameters[name] for owner, name in places}
        cast = {place: value.to(compute) for place, value in values.items() if value.dtype != compute}
        if not cast:  # as in a rollout, at every token
            return forward(*args, **kwargs)
        with replaced(cast):
            return forward(*args, **kwargs)

    return in_compute_type

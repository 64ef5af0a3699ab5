"""The reference policy as a frozen copy of the trainable tensors.

The reference differs from the policy only in the trainable parameters (0.4 B of 5.6 B for the vision LoRA), so it does
not need a second model. Its tensors are swapped in for a forward without gradients and swapped out again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from swift.trainers.sharding.parameters import cut, is_sharded, local_part, release, whole_values
from swift.trainers.stand_ins import places_of, replaced


class Snapshot:
    """Copy of a model's trainable parameters, by name."""

    def __init__(self, values: dict[str, Tensor]) -> None:
        self.values = values

    @classmethod
    def of(cls, model: nn.Module, dtype: torch.dtype | None = None) -> Snapshot:
        """Copy every parameter of ``model`` that requires gradients, in the type ``dtype`` or its own."""
        return cls(
            {n: p.detach().to(dtype or p.dtype, copy=True) for n, p in model.named_parameters() if p.requires_grad}
        )

    @classmethod
    def of_other(cls, model: nn.Module, other: nn.Module) -> Snapshot | None:
        """Copy the values that ``other`` has for the trainable parameters of ``model``.

        Returns None if the frozen parameters differ, so that ``other`` is needed as a second model.
        """
        values = {}
        other_state = other.state_dict()
        for name, parameter in model.named_parameters():
            value = other_state.get(name)
            if value is None or value.shape != parameter.shape:
                return None
            if parameter.requires_grad:
                values[name] = value.detach().to(parameter.device, parameter.dtype, copy=True)
            elif not torch.equal(value.to(parameter.device, parameter.dtype), parameter):
                return None
        return cls(values)

    def divide(self, model: nn.Module) -> None:
        """Keep only the parts that this process needs, once an engine has divided ``model`` or moved it."""
        parameters = dict(model.named_parameters())
        self.values = {name: cut(parameters[name], value) for name, value in self.values.items()}

    @contextmanager
    def swapped_into(self, model: nn.Module) -> Iterator[None]:
        """Let the modules of ``model`` hold the snapshot's values within the block. Nothing is copied."""
        with replaced(places_of(model, self.values)):
            yield

    @contextmanager
    @torch.no_grad()
    def written_into(self, model: nn.Module) -> Iterator[None]:
        """Within the block, let the parts of a divided ``model`` hold the snapshot's values (see :meth:`divide`).

        Engines keep views of the parts, so the values are written over them, and the model's own ones back from copies.
        """
        release(model)  # after a forward, FSDP2's root may hold whole parameters, whose memory will be freed
        parameters = dict(model.named_parameters())
        parts = {name: local_part(parameters[name]) for name in self.values}
        own = {name: part.clone() for name, part in parts.items()}
        try:
            _overwrite(model, parts, self.values)
            yield
        finally:
            _overwrite(model, parts, own)

    @torch.no_grad()
    def mix(self, model: nn.Module, share: float) -> None:
        """Move every value towards the model's: ``share`` of the model's value plus 1 - share of the old one."""
        release(model)
        parameters = dict(model.named_parameters())
        for name, value in self.values.items():
            value.lerp_(local_part(parameters[name]).to(value.dtype), share)

    def whole(self, model: nn.Module, *, keep: bool) -> dict[str, Tensor]:
        """The whole values by name on the CPU, an empty dict unless ``keep``. All processes call it together."""
        if not is_sharded(model):
            return {name: value.cpu() for name, value in self.values.items()} if keep else {}
        with self.written_into(model):
            named = dict(model.named_parameters())
            return whole_values(((name, named[name]) for name in self.values), keep=keep)

    def load(self, model: nn.Module, values: dict[str, Tensor]) -> None:
        """Take whole ``values``, as :meth:`whole` returned them. Raises KeyError if one is missing."""
        parameters = dict(model.named_parameters())
        for name, value in self.values.items():
            value.copy_(cut(parameters[name], values[name]))

    def nbytes(self) -> int:
        """Size of the copy in bytes."""
        return sum(value.numel() * value.element_size() for value in self.values.values())


def _overwrite(model: nn.Module, parts: dict[str, Tensor], values: dict[str, Tensor]) -> None:
    release(model)  # gathered copies would hold the old values
    for name, part in parts.items():
        part.copy_(values[name])

"""Keeping processes in step that must call a divided model equally often."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn


class Pace:
    """Keeps the forward passes of a rollout equally many in all processes.

    If ``synced``, `pass_begins` is called before every pass, and `finish` makes passes whose results nobody reads until
    every process is through. Otherwise nothing happens.
    """

    def __init__(self, model: nn.Module, *, synced: bool) -> None:
        self.model = model
        self.synced = synced and dist.is_initialized() and dist.get_world_size() > 1

    def pass_begins(self) -> None:
        """Tell the other processes that this one makes a forward pass now."""
        if self.synced:
            self._largest(1)

    def most(self, count: int) -> int:
        """The largest ``count`` of any process."""
        if not self.synced:
            return count
        return int(self._largest(count))

    def finish(self) -> None:
        """Make forward passes until no process makes any more."""
        while self.synced and self._largest(0):
            self.model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=self._device()), use_cache=False)

    def _largest(self, value: int) -> Tensor:
        largest = torch.tensor(value, device=self._device())
        dist.all_reduce(largest, op=dist.ReduceOp.MAX)
        return largest

    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

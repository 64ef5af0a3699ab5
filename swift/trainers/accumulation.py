"""Several backward passes in one micro-batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from accelerate import Accelerator
from torch import nn


@contextmanager
def gradients_kept(accelerator: Accelerator, model: nn.Module) -> Iterator[None]:
    """Within the block, a backward pass adds to the gradients without exchanging them between processes or stepping."""
    state = accelerator.gradient_state
    before = state.sync_gradients
    state._set_sync_gradients(False)
    try:
        with accelerator.no_sync(model):
            yield
    finally:
        state._set_sync_gradients(before)

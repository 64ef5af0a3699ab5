"""Sums that are the same to the last bit in every run, so that a run that was killed and resumed shows no trace of it.

On a CPU with several threads, the gradient of ``x[rows]`` is added up by all threads at once. Rows that are taken more
than once, such as the end of a prompt that begins every completion of a group, then get their sum in the order in which
the threads happen to arrive.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def sums_in_order(device: torch.device) -> Iterator[None]:
    """Within the block, let torch add in a fixed order if ``device`` is a CPU. Other devices keep their speed."""
    if device.type != "cpu":
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    filled = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.utils.deterministic.fill_uninitialized_memory = filled

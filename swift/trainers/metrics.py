"""Averages of per-step figures over the steps between two log lines, and over processes."""

from __future__ import annotations

from collections.abc import Iterable

import torch


class Means:
    """Weighted means by name, plus extremes for names that end in `_min` or `_max`."""

    def __init__(self) -> None:
        self.sums: dict[str, tuple[float, float]] = {}
        self.extremes: dict[str, float] = {}

    def add(self, name: str, total: float, count: float = 1.0) -> None:
        """Add ``count`` observations that sum to ``total``."""
        old_total, old_count = self.sums.get(name, (0.0, 0.0))
        self.sums[name] = (old_total + total, old_count + count)

    def extreme(self, name: str, value: float) -> None:
        """Keep the smallest (`..._min`) or largest (`..._max`) value seen."""
        keep = min if name.endswith("_min") else max
        self.extremes[name] = keep(self.extremes.get(name, value), value)

    @property
    def names(self) -> list[str]:
        """The means that have been observed, in the order first seen."""
        return list(self.sums)

    def expect(self, names: Iterable[str]) -> None:
        """Hold these means, in this order, whether or not this process has observed them."""
        self.sums = {name: self.sums.get(name, (0.0, 0.0)) for name in names}

    def pop(self, gather) -> dict[str, float]:
        """The means so far, over all processes, in the order first seen; then start afresh.

        ``gather`` turns a tensor [K] of this process into [world, K]. Names must be the same in every process.
        """
        names = [*self.sums, *self.extremes]
        if not names:
            return {}
        own = [value for pair in self.sums.values() for value in pair] + list(self.extremes.values())
        table = gather(torch.tensor(own, dtype=torch.float64)[None])
        out = {}
        for position, name in enumerate(self.sums):
            count = float(table[:, 2 * position + 1].sum())
            if count:  # a figure nobody observed is left out, not logged as 0
                out[name] = float(table[:, 2 * position].sum()) / count
        for position, name in enumerate(self.extremes, start=2 * len(self.sums)):
            column = table[:, position]
            out[name] = float(column.min() if name.endswith("_min") else column.max())
        self.sums.clear()
        self.extremes.clear()
        return out

"""Averages of per-step figures over the steps between two log lines, and over processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch


class Means:
    """Means by name, and extremes of names that end in `_min` or `_max`."""

    def __init__(self) -> None:
        self.sums: dict[str, tuple[float, float]] = {}
        self.extremes: dict[str, float] = {}

    def add(self, name: str, total: float, count: float = 1.0) -> None:
        """Add ``count`` observations that sum to ``total``."""
        old_total, old_count = self.sums.get(name, (0.0, 0.0))
        self.sums[name] = (old_total + total, old_count + count)

    def extreme(self, name: str, value: float) -> None:
        """Keep the smallest (`..._min`) or largest (`..._max`) value observed. An infinite one counts as none, for a
        process that has nothing to observe."""
        choose = min if name.endswith("_min") else max
        self.extremes[name] = choose(self.extremes.get(name, value), value)

    @property
    def names(self) -> list[str]:
        """Names of the observed means, in the order of their first observation."""
        return list(self.sums)

    def expect(self, names: Iterable[str]) -> None:
        """Hold exactly these means in this order, including any that this process has not observed."""
        self.sums = {name: self.sums.get(name, (0.0, 0.0)) for name in names}

    def pop(self, gather: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, float]:
        """Return the means over all processes since the last call, in the order of their first observation, and reset.

        ``gather`` turns a tensor [1, K] of this process into [world_size, K]. Names and their order must be the same in
        all processes. A mean without observations is left out.
        """
        names = [*self.sums, *self.extremes]
        if not names:
            return {}
        own = [value for pair in self.sums.values() for value in pair] + list(self.extremes.values())
        table = gather(torch.tensor(own, dtype=torch.float64)[None])
        values = {}
        for position, name in enumerate(self.sums):
            count = float(table[:, 2 * position + 1].sum())
            if count:
                values[name] = float(table[:, 2 * position].sum()) / count
        for position, name in enumerate(self.extremes, start=2 * len(self.sums)):
            column = table[:, position]
            if bool((finite := column.isfinite()).any()):
                values[name] = float(column[finite].min() if name.endswith("_min") else column[finite].max())
        self.sums.clear()
        self.extremes.clear()
        return values

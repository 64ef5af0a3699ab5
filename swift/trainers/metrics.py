"""Averages of per-step figures over the steps between two log lines, and over processes."""

from __future__ import annotations

import itertools
import math
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
    def names(self) -> tuple[list[str], list[str]]:
        """Names of the observed means, and of the extremes, in the order of their first observation."""
        return list(self.sums), list(self.extremes)

    def unite(self, names: Iterable[tuple[list[str], list[str]]]) -> None:
        """Hold the means and extremes of all processes, whose ``names`` are given, in one order. What this process has
        not observed counts as nothing."""
        sums, extremes = (dict.fromkeys(itertools.chain(*lists)) for lists in zip(*names, strict=True))
        self.sums = {name: self.sums.get(name, (0.0, 0.0)) for name in sums}
        nothing = {name: math.inf if name.endswith("_min") else -math.inf for name in extremes}
        self.extremes = {name: self.extremes.get(name, value) for name, value in nothing.items()}

    def pop(self, gather: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, float]:
        """Return the means over all processes since the last call, in the order of their first observation, and reset.

        ``gather`` turns a tensor [1, K] of this process into [world_size, K]. Names and their order must be the same in
        all processes, as :meth:`unite` makes them. A mean without observations is left out.
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

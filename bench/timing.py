"""Comparison of two ways of doing the same work. They take turns within one run, and their medians are compared."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Comparison:
    """Median seconds of two ways over the counted rounds."""

    name: str
    slow: float
    fast: float

    @property
    def speedup(self) -> float:
        """Factor by which the second way is faster."""
        return self.slow / self.fast


def compare(name: str, slow: Callable[[], object], fast: Callable[[], object], rounds: int) -> Comparison:
    """Time ``slow`` and ``fast`` in turn, for ``rounds`` rounds after an uncounted one."""
    seconds: dict[str, list[float]] = {"slow": [], "fast": []}
    for counted in [False] + [True] * rounds:
        for label, work in (("slow", slow), ("fast", fast)):
            elapsed = _seconds(work)
            if counted:
                seconds[label].append(elapsed)
    return Comparison(name, statistics.median(seconds["slow"]), statistics.median(seconds["fast"]))


def _seconds(work: Callable[[], object]) -> float:
    _wait()
    started = time.perf_counter()
    work()
    _wait()
    return time.perf_counter() - started


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()

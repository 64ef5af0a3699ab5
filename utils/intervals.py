"""Uncertainty of a mean or a share over questions, and McNemar's test for two runs over the same questions.

The intervals are bootstrap intervals that draw whole patients. Questions about one patient share images, so they are
not independent.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TypeVar

import numpy as np

RESAMPLES = 2000
LEVEL = 0.95
_DRAWS_AT_ONCE = 2_000_000  # patients drawn in one array: 16 MB of draws, and as much of counts

_Column = TypeVar("_Column", bound=Hashable)


@dataclass(frozen=True)
class Interval:
    """A mean and the interval around it.

    A format specification applies to all three numbers: ``f"{interval:.2f}"`` is "0.50 [0.31, 0.68]".
    """

    mean: float
    lo: float
    hi: float

    def __format__(self, form: str) -> str:
        return f"{self.mean:{form}} [{self.lo:{form}}, {self.hi:{form}}]"

    def as_dict(self) -> dict[str, float]:
        """``{"mean", "lo", "hi"}``."""
        return asdict(self)


@dataclass(frozen=True)
class McNemar:
    """Differences between two runs over the same questions.

    Attributes:
        gained: questions that only the second run has right.
        lost: questions that only the first run has right.
        p_value: probability of a split at least as uneven if the runs are equally good.
    """

    gained: int
    lost: int
    p_value: float

    def as_dict(self) -> dict[str, float]:
        """``{"gained", "lost", "p_value"}``."""
        return asdict(self)


def mean_interval(
    values: Sequence[float], clusters: Sequence[Hashable], *, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """The mean of ``values`` [N] with its 95% percentile bootstrap interval.

    Each resample draws as many clusters as there are, with replacement, and averages all their values.

    Raises ValueError if there are no values or the lengths differ.
    """
    values = np.asarray(values, dtype=np.float64)[:, None]
    (interval,) = ratio_intervals(values, np.ones_like(values), clusters, resamples=resamples, seed=seed)
    return interval


def ratio_intervals(
    numerators: Sequence[Sequence[float]],
    denominators: Sequence[Sequence[float]],
    clusters: Sequence[Hashable],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[Interval | None]:
    """The ratio of sums of each column of ``numerators`` and ``denominators`` [N, M], with its interval.

    All columns share the resamples, which are drawn as in :func:`mean_interval`. A resample in which a column's
    denominators sum to 0 does not count for that column. A column whose denominators are all 0 gives None.

    Raises ValueError if there are no rows or the lengths differ.
    """
    numerators, denominators = (np.asarray(part, dtype=np.float64) for part in (numerators, denominators))
    if len(numerators) == 0 or len(numerators) != len(clusters) or numerators.shape != denominators.shape:
        raise ValueError(
            f"{len(numerators)} values with {len(denominators)} weights and {len(clusters)} clusters; "
            "give one weight and one cluster per value, and at least one value"
        )
    numbers: dict[Hashable, int] = {}
    member = np.array([numbers.setdefault(cluster, len(numbers)) for cluster in clusters])
    sums = np.zeros((len(numbers), 2, numerators.shape[1]))
    np.add.at(sums, member, np.stack([numerators, denominators], axis=1))
    with np.errstate(invalid="ignore"):  # 0 / 0 is NaN and is left out below
        tops, bottoms = _resampled_sums(sums, resamples, np.random.default_rng(seed)).swapaxes(0, 1)
        shares = tops / bottoms
    tail = 100 * (1 - LEVEL) / 2
    return [
        Interval(float(top / bottom), *map(float, np.nanpercentile(column, [tail, 100 - tail]))) if bottom else None
        for top, bottom, column in zip(*sums.sum(axis=0), shares.T, strict=True)
    ]


def column_intervals(
    columns: Mapping[_Column, np.ndarray], clusters: Sequence[Hashable]
) -> dict[_Column, Interval | None]:
    """The mean of each column [N] with its interval. All columns share the resamples.

    A row does not count for a column in which its value is not finite. A column without a finite value gives None.
    """
    table = np.stack(list(columns.values()), axis=1)  # [N, M]
    there = np.isfinite(table)
    return dict(zip(columns, ratio_intervals(np.where(there, table, 0), there, clusters), strict=True))


def difference_interval(
    first: Sequence[float],
    second: Sequence[float],
    clusters: Sequence[Hashable],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """The mean of ``second - first``, paired question by question, with its interval as in :func:`mean_interval`."""
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} values do not pair; align them first")
    return mean_interval(np.subtract(second, first), clusters, resamples=resamples, seed=seed)


def mcnemar_exact(first: Sequence[bool], second: Sequence[bool]) -> McNemar:
    """McNemar's exact test of whether two runs are right equally often, paired question by question.

    Only the questions on which the runs differ count. If the runs are equally good, each such question favors either
    run with probability 1/2. The p-value is the two-sided binomial one: twice the smaller tail, and at most 1. Without
    differences it is 1. The test takes questions for independent, so its p-value is too small if patients have several
    questions each. The interval of the difference does not have this fault.

    Raises ValueError if the lengths differ.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} values do not pair; align them first")
    first, second = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    gained, lost = int((~first & second).sum()), int((first & ~second).sum())
    differing = gained + lost
    tail, term = 0, 1
    for count in range(min(gained, lost) + 1):
        tail += term
        term = term * (differing - count) // (count + 1)
    return McNemar(gained, lost, min(1.0, 2 * tail / 2**differing))  # exact: the integers are of any size


def _resampled_sums(sums: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Sums of each resample, [resamples, 2, M], from those of each cluster, [C, 2, M]."""
    count = len(sums)
    at_once = max(1, _DRAWS_AT_ONCE // count)
    parts = []
    for start in range(0, resamples, at_once):
        draws = rng.integers(0, count, (min(at_once, resamples - start), count))
        cells = draws + count * np.arange(len(draws))[:, None]  # one row of counters per resample
        times = np.bincount(cells.ravel(), minlength=draws.size).reshape(draws.shape)
        parts.append(times.astype(np.float64) @ sums.reshape(count, -1))
    return np.concatenate(parts).reshape(resamples, *sums.shape[1:])

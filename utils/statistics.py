"""Uncertainty of a mean or a share over questions: bootstrap intervals that draw whole patients, because questions
about one patient share images and stand or fall together."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

RESAMPLES = 2000
LEVEL = 0.95
_DRAWS_AT_ONCE = 2_000_000  # patients drawn in one array, times columns: 32 MB of sums


@dataclass(frozen=True)
class Interval:
    """A mean and the interval around it. A number's format applies to all three: ``f"{interval:.2f}"`` is
    "0.50 [0.31, 0.68]"."""

    mean: float
    lo: float
    hi: float

    def __format__(self, form: str) -> str:
        return f"{self.mean:{form}} [{self.lo:{form}}, {self.hi:{form}}]"

    def as_dict(self) -> dict[str, float]:
        """``{"mean", "lo", "hi"}``."""
        return asdict(self)


def mean_interval(
    values: Sequence[float], clusters: Sequence[Hashable], *, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """The mean of ``values`` [N] with its 95% percentile bootstrap interval.

    Each resample draws as many clusters as there are, with replacement, and averages all their values.

    Raises ValueError for no values, or unequal lengths.
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

    All columns share the resamples, drawn as in :func:`mean_interval`; those in which a column's denominators sum to 0
    do not count for it. None where all its denominators are 0: there is no share of nothing.

    Raises ValueError for no rows, or unequal lengths.
    """
    numerators, denominators = (np.asarray(part, dtype=np.float64) for part in (numerators, denominators))
    if len(numerators) == 0 or len(numerators) != len(clusters) or numerators.shape != denominators.shape:
        raise ValueError(
            f"{len(numerators)} values with {len(denominators)} weights and {len(clusters)} clusters; "
            "give one weight and one cluster a value, at least one"
        )
    numbers: dict[Hashable, int] = {}
    member = np.array([numbers.setdefault(cluster, len(numbers)) for cluster in clusters])
    sums = np.zeros((len(numbers), 2, numerators.shape[1]))
    np.add.at(sums, member, np.stack([numerators, denominators], axis=1))
    with np.errstate(invalid="ignore"):  # 0 / 0 is NaN, left out below
        tops, bottoms = _resampled_sums(sums, resamples, np.random.default_rng(seed)).swapaxes(0, 1)
        shares = tops / bottoms
    tail = 100 * (1 - LEVEL) / 2
    return [
        Interval(float(top / bottom), *map(float, np.nanpercentile(column, [tail, 100 - tail]))) if bottom else None
        for top, bottom, column in zip(*sums.sum(axis=0), shares.T, strict=True)
    ]


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


def patients(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """The cluster of each result: its ``subject_id``; one without is a patient of its own."""
    return [
        f"position {position}" if result.get("subject_id") is None else f"patient {result['subject_id']}"
        for position, result in enumerate(results)
    ]


def _resampled_sums(sums: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Sums of each resample, [resamples, 2, M], from those of each cluster, [C, 2, M]."""
    count, _, columns = sums.shape
    at_once = max(1, _DRAWS_AT_ONCE // (count * columns))
    return np.concatenate(
        [
            sums[rng.integers(0, count, (min(at_once, resamples - start), count))].sum(axis=1)
            for start in range(0, resamples, at_once)
        ]
    )

"""Uncertainty of a mean over questions: bootstrap intervals that draw whole patients, because questions about one
patient share images and stand or fall together."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

RESAMPLES = 2000
LEVEL = 0.95
_DRAWS_AT_ONCE = 4_000_000  # patients drawn in one array: 32 MB


@dataclass(frozen=True)
class Interval:
    """A mean and the interval around it."""

    mean: float
    lo: float
    hi: float

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
    values = np.asarray(values, dtype=np.float64)
    if len(values) == 0 or len(values) != len(clusters):
        raise ValueError(f"{len(values)} values with {len(clusters)} clusters; give one cluster a value, at least one")
    numbers: dict[Hashable, int] = {}
    member = np.array([numbers.setdefault(cluster, len(numbers)) for cluster in clusters])
    sums, counts = np.bincount(member, weights=values), np.bincount(member)
    means = _resampled_means(sums, counts, resamples, np.random.default_rng(seed))
    tail = 100 * (1 - LEVEL) / 2
    lo, hi = np.percentile(means, [tail, 100 - tail])
    return Interval(float(values.mean()), float(lo), float(hi))


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


def _resampled_means(sums: np.ndarray, counts: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Mean of each resample, [resamples], from the sum and count of each cluster, [C]."""
    at_once = max(1, _DRAWS_AT_ONCE // len(sums))
    means = []
    for start in range(0, resamples, at_once):
        drawn = rng.integers(0, len(sums), (min(at_once, resamples - start), len(sums)))
        means.append(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1))
    return np.concatenate(means)

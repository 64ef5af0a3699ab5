"""Hierarchical bootstrap of a contrast between runs: it resamples seeds and patients together.

Runs with the same seed and questions about the same patient are not independent. So each resample draws seeds and,
independently, patients, and all cells of a contrast share both. One draw fewer than there are units is taken, which
makes the variance of a mean unbiased (Rao and Wu, 1988). With five seeds this matters: the ordinary bootstrap loses a
fifth of their variance.

Resampling both counts the noise of single answers three times (Owen, 2007), and resampling one of them counts it once.
With J, S and P the variances of the contrast over resamples of both, of seeds alone and of patients alone:

    noise     E = J - S - P, at least 0
    variance  V = S + P - E, at least S and at least P
    interval  effect +- t(df) sqrt(V), with Satterthwaite's df = V^2 / (S^2/(s-1) + P^2/(p-1) + E^2/((s-1)(p-1)))

`tests/experiments/test_bootstrap.py` checks the coverage on simulated runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from utils.intervals import LEVEL

DRAWS = 2000
POWER = 0.8


@dataclass(frozen=True)
class CellSums:
    """An outcome of the runs of one cell, as a ratio of sums over questions.

    Attributes:
        numerators, denominators: sums [seeds, patients]. The denominators of a plain mean count questions.
    """

    numerators: np.ndarray
    denominators: np.ndarray

    def __post_init__(self) -> None:
        if self.numerators.shape != self.denominators.shape or self.numerators.ndim != 2:
            raise ValueError(
                f"numerators {self.numerators.shape} and denominators {self.denominators.shape} must both be "
                "[seeds, patients]"
            )

    @property
    def ratio(self) -> float:
        """The outcome over all runs and questions; NaN if nothing counts."""
        whole = self.denominators.sum()
        return float(self.numerators.sum() / whole) if whole else math.nan


@dataclass(frozen=True)
class Estimate:
    """An effect with its interval.

    Attributes:
        effect, lo, hi: the effect and the ends of its interval.
        p_value: two-sided, of no effect.
        error: standard error, the root of V.
        df: degrees of freedom of the interval.
        seed_variance, patient_variance, noise_variance: S, P and E.
        seeds, patients: numbers of them.
    """

    effect: float
    lo: float
    hi: float
    p_value: float
    error: float
    df: float
    seed_variance: float
    patient_variance: float
    noise_variance: float
    seeds: int
    patients: int

    def detectable(self, seeds: int, patients: int, power: float = POWER) -> float:
        """The smallest difference that an experiment of that size would find with this power at the 5% level.

        The variance of seeds, patients and answers is taken to be as here. An interval over one seed tells nothing of
        other seeds, and then neither does this.
        """
        noise = self.noise_variance * (self.seeds / seeds) * (self.patients / patients)
        of_seeds = max(0.0, self.seed_variance - self.noise_variance) * self.seeds / seeds + noise
        of_patients = max(0.0, self.patient_variance - self.noise_variance) * self.patients / patients + noise
        variance = of_seeds + of_patients - noise
        freedom = (seeds - 1, patients - 1, (seeds - 1) * (patients - 1))
        df = degrees_of_freedom(variance, zip((of_seeds, of_patients, noise), freedom, strict=True))
        return float(stats.t.ppf((1 + LEVEL) / 2, df) + stats.t.ppf(power, df)) * math.sqrt(variance)


def estimate_contrast(cells: Sequence[tuple[float, CellSums]], resamples: int = DRAWS, rng_seed: int = 0) -> Estimate:
    """The sum of weight times outcome over ``cells``, with its interval.

    All cells must have the same seeds and patients, in the same order. With one seed, the interval is over patients
    alone and says nothing of other seeds. Raises ValueError if the shapes differ or an outcome counts nothing.
    """
    shapes = {sums.numerators.shape for _, sums in cells}
    if len(shapes) != 1:
        raise ValueError(f"the cells of a contrast must have the same seeds and patients; they have {sorted(shapes)}")
    effect = sum(weight * sums.ratio for weight, sums in cells)
    if math.isnan(effect):
        raise ValueError("an outcome of the contrast counts no question; leave it out")
    ((seeds, patients),) = shapes
    rng = np.random.default_rng(rng_seed)
    of_seeds, of_patients = (draw_counts(rng, units, resamples) for units in (seeds, patients))
    all_seeds, all_patients = np.ones((1, seeds)), np.ones((1, patients))
    both = _variance(cells, of_seeds, of_patients)
    seed_part, patient_part = _variance(cells, of_seeds, all_patients), _variance(cells, all_seeds, of_patients)
    noise = max(0.0, both - seed_part - patient_part) if seeds > 1 and patients > 1 else 0.0
    variance = max(seed_part + patient_part - noise, seed_part, patient_part)
    freedom = (seeds - 1, patients - 1, (seeds - 1) * (patients - 1))
    df = degrees_of_freedom(variance, zip((seed_part, patient_part, noise), freedom, strict=True))
    return _estimate(effect, variance, df, (seed_part, patient_part, noise, seeds, patients))


def draw_counts(rng: np.random.Generator, units: int, resamples: int) -> np.ndarray:
    """Counts of the draws of each unit, [resamples, units]: ``units - 1`` draws each, or the one unit there is."""
    if units == 1:
        return np.ones((resamples, 1))
    return rng.multinomial(units - 1, np.full(units, 1 / units), size=resamples).astype(np.float64)


def _variance(cells: Sequence[tuple[float, CellSums]], of_seeds: np.ndarray, of_patients: np.ndarray) -> float:
    """The variance of the contrast over resamples. Those in which an outcome counts nothing are left out."""
    total = np.zeros(max(len(of_seeds), len(of_patients)))
    for weight, sums in cells:
        top, bottom = (((of_seeds @ part) * of_patients).sum(1) for part in (sums.numerators, sums.denominators))
        with np.errstate(invalid="ignore", divide="ignore"):
            total += weight * top / bottom
    return float(np.var(total[np.isfinite(total)]))


def degrees_of_freedom(variance: float, parts: Iterable[tuple[float, int]]) -> float:
    """Satterthwaite's degrees of freedom of a variance that is a sum of parts, each with its own degrees of freedom."""
    weight = sum(part**2 / freedom for part, freedom in parts if freedom > 0)
    return variance**2 / weight if weight > 0 else math.inf


def _estimate(effect: float, variance: float, df: float, facts: tuple) -> Estimate:
    error = math.sqrt(variance)
    if error == 0:
        return Estimate(effect, effect, effect, float(effect == 0), 0.0, df, *facts)
    reach = float(stats.t.ppf((1 + LEVEL) / 2, df)) * error
    p_value = float(2 * stats.t.sf(abs(effect) / error, df))
    return Estimate(effect, effect - reach, effect + reach, p_value, error, df, *facts)

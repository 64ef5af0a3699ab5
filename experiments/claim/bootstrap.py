"""Hierarchical bootstrap of a contrast between runs: it resamples seeds and patients together.

Runs on the same training set and questions about the same patient are not independent. So each resample draws seeds
and, independently, patients. All cells of a contrast share the patients, and all cells of a *stratum* share the seeds:
those that trained on the same sets. Strata draw their seeds independently. One draw fewer than there are units is
taken, which makes the variance of a mean unbiased (Rao and Wu, 1988). With five seeds this matters: the ordinary
bootstrap loses a fifth of their variance.

Resampling both counts the noise of single answers three times (Owen, 2007), and resampling one of them counts it once.
With J, S and P the variances of the contrast over resamples of both, of seeds alone and of patients alone:

    noise     E = J - S - P, at least 0
    variance  V = S + P - E, at least S and at least P
    interval  effect +- t(df) sqrt(V), with Satterthwaite's df = V^2 / (S^2/f + P^2/(p-1) + E^2/(f(p-1)))

f is s - 1 for one stratum of s seeds, and with several, that times S^2 over the sum of the squares of their parts of S.

`tests/experiments/test_bootstrap.py` checks the coverage on simulated runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

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


class Term(NamedTuple):
    """A cell of a contrast with its weight. ``stratum``: cells of the same one share their seeds."""

    weight: float
    sums: CellSums
    stratum: str = ""


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
        strata: the number of equal strata that would have the same degrees of freedom.
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
    strata: float = 1.0

    def detectable(self, seeds: int, patients: int, power: float = POWER) -> float:
        """The smallest difference that an experiment of that size would find with this power at the 5% level.

        The variance of seeds, patients and answers is taken to be as here. An interval over one seed tells nothing of
        other seeds, and then neither does this.
        """
        noise = self.noise_variance * (self.seeds / seeds) * (self.patients / patients)
        of_seeds = max(0.0, self.seed_variance - self.noise_variance) * self.seeds / seeds + noise
        of_patients = max(0.0, self.patient_variance - self.noise_variance) * self.patients / patients + noise
        variance = total_variance(of_seeds, of_patients, noise)
        df = degrees_of_freedom((of_seeds, of_patients, noise), self.strata * (seeds - 1), patients - 1)
        return float(stats.t.ppf((1 + LEVEL) / 2, df) + stats.t.ppf(power, df)) * math.sqrt(variance)


def estimate_contrast(terms: Sequence[Term], resamples: int = DRAWS, rng_seed: int = 0) -> Estimate:
    """The sum of weight times outcome over ``terms``, with its interval.

    All cells must have the same seeds and patients, in the same order. With one seed, the interval is over patients
    alone and says nothing of other seeds. Raises ValueError if the shapes differ or an outcome counts nothing.
    """
    shapes = {term.sums.numerators.shape for term in terms}
    if len(shapes) != 1:
        raise ValueError(f"the cells of a contrast must have the same seeds and patients; they have {sorted(shapes)}")
    effect = sum(term.weight * term.sums.ratio for term in terms)
    if math.isnan(effect):
        raise ValueError("an outcome of the contrast counts no question; leave it out")
    ((seeds, patients),) = shapes
    rng = np.random.default_rng(rng_seed)
    strata = list(dict.fromkeys(term.stratum for term in terms))
    of_patients = draw_counts(rng, patients, resamples)
    of_seeds = {stratum: draw_counts(rng, seeds, resamples) for stratum in strata}
    all_seeds, all_patients = dict.fromkeys(strata, np.ones((1, seeds))), np.ones((1, patients))
    both, patient_part = _variance(terms, of_seeds, of_patients), _variance(terms, all_seeds, of_patients)
    parts = [_variance([t for t in terms if t.stratum == name], of_seeds, all_patients) for name in strata]
    seed_part = sum(parts)
    noise = max(0.0, both - seed_part - patient_part) if seeds > 1 and patients > 1 else 0.0
    equal_strata = seed_part**2 / squares if (squares := sum(part**2 for part in parts)) else 1.0
    df = degrees_of_freedom((seed_part, patient_part, noise), equal_strata * (seeds - 1), patients - 1)
    facts = (seed_part, patient_part, noise, seeds, patients, equal_strata)
    return _estimate(effect, total_variance(seed_part, patient_part, noise), df, facts)


def total_variance(seed_part: float, patient_part: float, noise: float) -> float:
    """V of S, P and E."""
    return max(seed_part + patient_part - noise, seed_part, patient_part)


def draw_counts(rng: np.random.Generator, units: int, resamples: int) -> np.ndarray:
    """Counts of the draws of each unit, [resamples, units]: ``units - 1`` draws each, or the one unit there is."""
    if units == 1:
        return np.ones((resamples, 1))
    return rng.multinomial(units - 1, np.full(units, 1 / units), size=resamples).astype(np.float64)


def _variance(terms: Sequence[Term], of_seeds: Mapping[str, np.ndarray], of_patients: np.ndarray) -> float:
    """The variance of the sum of terms over resamples. Those in which an outcome counts nothing are left out."""
    total = np.zeros(1)
    for weight, sums, stratum in terms:
        top, bottom = (
            ((of_seeds[stratum] @ part) * of_patients).sum(1) for part in (sums.numerators, sums.denominators)
        )
        with np.errstate(invalid="ignore", divide="ignore"):
            total = total + weight * top / bottom
    return float(np.var(total[np.isfinite(total)]))


def degrees_of_freedom(parts: tuple[float, float, float], of_seeds: float, of_patients: float) -> float:
    """Satterthwaite's degrees of freedom of V, from S, P and E and the degrees of freedom of the first two."""
    freedom = (of_seeds, of_patients, of_seeds * of_patients)
    weight = sum(part**2 / own for part, own in zip(parts, freedom, strict=True) if own > 0)
    return total_variance(*parts) ** 2 / weight if weight > 0 else math.inf


def _estimate(effect: float, variance: float, df: float, facts: tuple) -> Estimate:
    error = math.sqrt(variance)
    if error == 0:
        return Estimate(effect, effect, effect, float(effect == 0), 0.0, df, *facts)
    reach = float(stats.t.ppf((1 + LEVEL) / 2, df)) * error
    p_value = float(2 * stats.t.sf(abs(effect) / error, df))
    return Estimate(effect, effect - reach, effect + reach, p_value, error, df, *facts)

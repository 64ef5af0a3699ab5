"""The hierarchical bootstrap: values by hand, and coverage on simulated runs whose effect is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from experiments.claim.bootstrap import CellSums, Estimate, Term, estimate_contrast
from experiments.claim.corrections import benjamini_hochberg, holm

EFFECT, SEEDS, PATIENTS, QUESTIONS = 0.03, 5, 40, 3


def sums(values: list[list[float]], questions: float = 1.0) -> CellSums:
    values = np.array(values, dtype=float)
    return CellSums(values, np.full_like(values, questions))


def simulated_cell(
    rng: np.random.Generator, effect: float, of_seeds: float, of_patients: float, noise: float
) -> CellSums:
    """A cell whose runs differ by seed, by patient and by answer, each with its standard deviation."""
    values = effect + rng.normal(0, of_seeds, (SEEDS, 1)) + rng.normal(0, of_patients, (1, PATIENTS))
    values = values + rng.normal(0, noise / math.sqrt(QUESTIONS), (SEEDS, PATIENTS))
    return CellSums(QUESTIONS * values, np.full(values.shape, float(QUESTIONS)))


def coverage(spread: tuple[float, float, float], merged: bool = False, experiments: int = 400) -> float:
    """The share of simulated experiments whose interval holds the effect. ``merged``: seeds are not resampled."""
    rng, hits = np.random.default_rng(7), 0
    for number in range(experiments):
        first, second = (simulated_cell(rng, effect, *spread) for effect in (EFFECT, 0.0))
        if merged:
            first, second = (
                CellSums(*(part.sum(axis=0, keepdims=True) for part in (cell.numerators, cell.denominators)))
                for cell in (first, second)
            )
        estimate = estimate_contrast([Term(1.0, first), Term(-1.0, second)], resamples=400, rng_seed=number)
        hits += estimate.lo <= EFFECT <= estimate.hi
    return hits / experiments


# Standard deviations of seeds, patients and single answers. 400 experiments have a standard error of 1.1 points.
@pytest.mark.parametrize(
    "spread",
    [
        pytest.param((0.05, 0.0, 0.3), id="seeds differ most"),
        pytest.param((0.0, 0.15, 0.1), id="patients differ most"),
        pytest.param((0.02, 0.08, 0.3), id="as in a run of the demo"),
    ],
)
def test_intervals_cover_the_effect_at_the_level_they_promise(spread: tuple[float, float, float]) -> None:
    assert 0.92 <= coverage(spread) <= 0.98


def test_intervals_over_patients_alone_miss_the_effect_if_seeds_differ() -> None:
    """The check above can fail: without resampling of seeds the intervals are a third as wide."""
    assert coverage((0.05, 0.0, 0.3), merged=True, experiments=200) < 0.75


def coverage_of_three_pairs(same_sets: bool, strata: bool, experiments: int = 300) -> tuple[float, float]:
    """The coverage, and the mean width, of the mean difference of three pairs of cells.

    A training set shifts the runs on it by 0.05. The first cells of the pairs have the same sets, or sets of their own.
    ``strata``: each pair is a stratum.
    """
    rng, hits, width = np.random.default_rng(11), 0, 0.0
    for number in range(experiments):
        shared = rng.normal(0, 0.05, (SEEDS, 1))
        terms = []
        for pair in range(3):
            shift = shared if same_sets else rng.normal(0, 0.05, (SEEDS, 1))
            for weight, effect, of_sets in ((1 / 3, EFFECT, shift), (-1 / 3, 0.0, 0.0)):
                cell = simulated_cell(rng, effect, 0.01, 0.02, 0.2)
                moved = CellSums(cell.numerators + QUESTIONS * of_sets, cell.denominators)
                terms.append(Term(weight, moved, str(pair) if strata else ""))
        estimate = estimate_contrast(terms, resamples=300, rng_seed=number)
        hits += estimate.lo <= EFFECT <= estimate.hi
        width += estimate.hi - estimate.lo
    return hits / experiments, width / experiments


def test_pairs_with_training_sets_of_their_own_are_strata_and_give_narrower_intervals() -> None:
    apart, together = (coverage_of_three_pairs(same_sets=False, strata=strata) for strata in (True, False))
    assert 0.92 <= apart[0] <= 0.98
    assert apart[1] < 0.93 * together[1]


def test_pairs_that_share_training_sets_are_one_stratum() -> None:
    """Three runs on one set tell no more of other sets than one run does."""
    assert 0.92 <= coverage_of_three_pairs(same_sets=True, strata=False)[0] <= 0.98
    assert coverage_of_three_pairs(same_sets=True, strata=True, experiments=150)[0] < 0.88


def test_an_effect_is_the_weighted_sum_of_ratios() -> None:
    """First cell 6 / 8, second (1 + 1) / (2 + 2), third 0: 0.75 - 0.5 * 0.5 - 0.5 * 0 = 0.5."""
    first = sums([[2, 1], [2, 1]], questions=2)
    second = CellSums(np.array([[1.0, 0], [1, 0]]), np.array([[2.0, 0], [2, 0]]))
    third = sums([[0, 0], [0, 0]])
    assert estimate_contrast([Term(1, first), Term(-0.5, second), Term(-0.5, third)]).effect == pytest.approx(0.5)


def test_the_variance_of_a_mean_over_seeds_is_that_of_the_textbook() -> None:
    """Means of the seeds: 0.1, 0.2, 0.6. Their variance is 0.07, that of the mean 0.07 / 3, and t(2) = 4.303."""
    cell = sums([[0.1] * 50, [0.2] * 50, [0.6] * 50])
    estimate = estimate_contrast([Term(1, cell)], resamples=20_000)
    assert estimate.error**2 == pytest.approx(0.07 / 3, rel=0.05)
    assert estimate.df == pytest.approx(2, abs=0.01)
    assert estimate.hi == pytest.approx(0.3 + 4.303 * math.sqrt(0.07 / 3), rel=0.05)


def test_the_variance_over_patients_is_that_of_the_textbook() -> None:
    """Values 0, 0, 1, 1: variance 1/3, that of the mean 1/12, with 3 degrees of freedom."""
    estimate = estimate_contrast([Term(1, sums([[0, 0, 1, 1]] * 4))], resamples=20_000)
    assert estimate.error**2 == pytest.approx(1 / 12, rel=0.05)
    assert estimate.df == pytest.approx(3, abs=0.01)
    assert estimate.seed_variance == 0.0


def test_what_all_cells_share_drops_out() -> None:
    """Patients and seeds shift both cells alike, and the difference is the same everywhere."""
    rng = np.random.default_rng(0)
    shared = rng.normal(0, 1, (5, 30))
    estimate = estimate_contrast([Term(1, sums(shared + 0.1)), Term(-1, sums(shared))])
    assert (estimate.lo, estimate.hi) == pytest.approx((0.1, 0.1))
    assert estimate.p_value == pytest.approx(0.0, abs=1e-9)


def test_equal_runs_have_no_effect_and_are_no_finding() -> None:
    cell = sums([[1, 0, 1], [1, 1, 1]])
    estimate = estimate_contrast([Term(1, cell), Term(-1, cell)])
    assert (estimate.effect, estimate.lo, estimate.hi, estimate.p_value) == (0, 0, 0, 1)


def test_the_same_data_give_the_same_interval() -> None:
    cells = [Term(1.0, simulated_cell(np.random.default_rng(3), 0.1, 0.1, 0.1, 0.3))]
    assert estimate_contrast(cells) == estimate_contrast(cells)


def test_one_seed_gives_an_interval_over_patients() -> None:
    estimate = estimate_contrast([Term(1, sums([[0, 0, 1, 1]]))], resamples=20_000)
    assert estimate.error**2 == pytest.approx(1 / 12, rel=0.05)


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ([Term(1, sums([[1, 0]])), Term(-1, sums([[1]]))], "same seeds and patients"),
        ([Term(1, CellSums(np.zeros((2, 2)), np.zeros((2, 2))))], "counts no question"),
    ],
)
def test_cells_that_do_not_pair_or_count_nothing_are_refused(cells: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        estimate_contrast(cells)


def test_a_detectable_difference_is_found_as_often_as_promised() -> None:
    """About four in five experiments find a true difference of the detectable size."""
    rng, spread = np.random.default_rng(5), (0.02, 0.06, 0.2)
    truth = Estimate(0, 0, 0, 1, 0, 0, *_components(spread), SEEDS, PATIENTS).detectable(SEEDS, PATIENTS)
    found = 0
    for number in range(200):
        cells = [Term(1.0, simulated_cell(rng, truth, *spread)), Term(-1.0, simulated_cell(rng, 0.0, *spread))]
        found += estimate_contrast(cells, resamples=300, rng_seed=number).p_value < 0.05
    assert 0.7 < found / 200 < 0.9


def _components(spread: tuple[float, float, float]) -> tuple[float, float, float]:
    """Expected S, P and E of a difference of two cells with these standard deviations."""
    of_seeds, of_patients, noise = spread
    rest = 2 * noise**2 / (QUESTIONS * SEEDS * PATIENTS)
    return 2 * of_seeds**2 / SEEDS + rest, 2 * of_patients**2 / PATIENTS + rest, rest


def test_more_seeds_see_smaller_differences() -> None:
    estimate = Estimate(0, 0, 0, 1, 0, 0, *_components((0.02, 0.06, 0.2)), SEEDS, PATIENTS)
    assert estimate.detectable(5, 40) > estimate.detectable(10, 40) > estimate.detectable(10, 400)


# Corrections, by hand


def test_holm_multiplies_by_the_number_of_hypotheses_that_are_left() -> None:
    """0.01 x 4, 0.02 x 3, 0.03 x 2 (raised to the last one's 0.06), 0.5 x 1."""
    assert holm([0.5, 0.01, 0.03, 0.02]) == pytest.approx([0.5, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_benjamini_hochberg_divides_by_the_rank() -> None:
    """0.01 x 4 / 1 = 0.04, 0.02 x 4 / 2 = 0.04, 0.03 x 4 / 3 = 0.04, 0.5 x 4 / 4."""
    assert benjamini_hochberg([0.5, 0.01, 0.03, 0.02]) == pytest.approx([0.5, 0.04, 0.04, 0.04])
    assert benjamini_hochberg([]) == []

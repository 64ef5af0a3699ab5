import numpy as np
import pytest
from scipy.stats import binomtest

from utils.intervals import Interval, difference_interval, mcnemar_exact, mean_interval, ratio_intervals


def one_by_one(values, clusters, resamples, seed):
    """The definition: draw patients, pool all their values, average."""
    by_cluster = {}
    for value, cluster in zip(values, clusters, strict=True):
        by_cluster.setdefault(cluster, []).append(value)
    groups = list(by_cluster.values())
    rng = np.random.default_rng(seed)
    draws = rng.integers(0, len(groups), (resamples, len(groups)))
    means = [np.mean(np.concatenate([groups[drawn] for drawn in row])) for row in draws]
    return np.mean(values), *np.percentile(means, [2.5, 97.5])


def test_interval_is_that_of_drawing_patients_one_by_one():
    rng = np.random.default_rng(3)
    clusters = rng.integers(0, 12, 70).tolist()
    values = rng.random(70)
    interval = mean_interval(values, clusters, resamples=300, seed=5)
    np.testing.assert_allclose((interval.mean, interval.lo, interval.hi), one_by_one(values, clusters, 300, 5))


def test_drawing_in_pieces_changes_nothing(monkeypatch):
    values, clusters = np.random.default_rng(0).random(40), list(range(40))
    whole = mean_interval(values, clusters, resamples=50)
    monkeypatch.setattr("utils.intervals._DRAWS_AT_ONCE", 130)  # three resamples at a time
    in_pieces = mean_interval(values, clusters, resamples=50)
    np.testing.assert_allclose(list(in_pieces.as_dict().values()), list(whole.as_dict().values()), rtol=1e-12)


def test_shares_are_those_of_drawing_patients_one_by_one_and_dividing_sums():
    rng = np.random.default_rng(8)
    clusters = rng.integers(0, 9, 40)
    wholes = rng.integers(0, 5, (40, 3))
    parts = np.minimum(rng.integers(0, 5, (40, 3)), wholes)
    wholes[:, 2] = 0
    parts[:, 2] = 0
    first, second, nothing = ratio_intervals(parts, wholes, clusters.tolist(), resamples=200, seed=4)
    names = list(dict.fromkeys(clusters.tolist()))
    draws = np.random.default_rng(4).integers(0, len(names), (200, len(names)))
    for column, interval in enumerate((first, second)):
        shares = []
        for row in draws:
            rows = np.concatenate([np.flatnonzero(clusters == names[drawn]) for drawn in row])
            shares.append(parts[rows, column].sum() / wholes[rows, column].sum())
        expected = parts[:, column].sum() / wholes[:, column].sum(), *np.percentile(shares, [2.5, 97.5])
        np.testing.assert_allclose((interval.mean, interval.lo, interval.hi), expected)
    assert nothing is None


def test_resamples_without_anything_to_share_do_not_count():
    # Only patient a has anything: 1 of 2. The resamples that miss a say nothing, the others say one half.
    (interval,) = ratio_intervals([[1], [0]], [[2], [0]], ["a", "b"])
    assert interval == Interval(0.5, 0.5, 0.5)


def test_an_interval_is_printed_with_the_format_of_a_number():
    assert f"{Interval(0.5, 0.25, 0.625):.2f}" == "0.50 [0.25, 0.62]"
    assert f"{Interval(1, -2, 3):+.1f}" == "+1.0 [-2.0, +3.0]"


def test_patients_are_drawn_whole():
    # Every patient's questions are all right or all wrong, 100 each. By question the deviation of the mean would be
    # sqrt(.25 / 1000) = .016; with 10 patients it is sqrt(.25 / 10) = .158, so the interval is about .2 to .8.
    values = np.repeat([0, 1] * 5, 100)
    by_patient = mean_interval(values, np.repeat(range(10), 100).tolist())
    assert by_patient.lo <= 0.2
    assert by_patient.hi >= 0.8
    by_question = mean_interval(values, range(1000))
    assert by_question.hi - by_question.lo < 0.07


def test_one_patient_leaves_no_spread():
    interval = mean_interval([0, 1, 1, 0], ["p"] * 4)
    assert (interval.mean, interval.lo, interval.hi) == (0.5, 0.5, 0.5)


def test_interval_of_a_mean_covers_it_as_often_as_it_says():
    # 200 worlds of 60 patients with a random effect each, 1 to 5 questions; the true mean is 0. The standard error of
    # an observed coverage of .95 is .015; the percentile bootstrap runs slightly low.
    covered = 0
    for world in range(200):
        rng = np.random.default_rng((11, world))
        counts = rng.integers(1, 6, 60)
        clusters = np.repeat(np.arange(60), counts)
        values = np.repeat(rng.normal(size=60), counts) + rng.normal(size=counts.sum())
        interval = mean_interval(values, clusters.tolist(), resamples=400, seed=world)
        covered += interval.lo <= 0 <= interval.hi
    assert 0.89 <= covered / 200 <= 0.99


def test_difference_is_second_minus_first_and_paired():
    first = np.random.default_rng(1).random(50)
    # Paired, a constant shift has no spread, however much the questions differ.
    interval = difference_interval(first, first + 0.25, list(range(50)))
    np.testing.assert_allclose((interval.mean, interval.lo, interval.hi), (0.25, 0.25, 0.25))


def test_same_seed_same_interval_and_another_seed_another():
    values, clusters = np.random.default_rng(1).random(30), list(range(30))
    assert mean_interval(values, clusters, seed=1) == mean_interval(values, clusters, seed=1)
    assert mean_interval(values, clusters, seed=1) != mean_interval(values, clusters, seed=2)


@pytest.mark.parametrize(("values", "clusters"), [([], []), ([1.0], []), ([1.0, 0.0], ["a"])])
def test_values_and_clusters_that_do_not_fit_are_an_error(values, clusters):
    with pytest.raises(ValueError, match="clusters"):
        mean_interval(values, clusters)


def test_unequal_runs_do_not_pair():
    with pytest.raises(ValueError, match="pair"):
        difference_interval([1.0], [1.0, 0.0], ["a"])


def test_mcnemar_is_the_binomial_test_of_the_questions_that_differ():
    rng = np.random.default_rng(2)
    for count in (1, 2, 7, 40, 333):
        first, second = rng.random(count) < 0.5, rng.random(count) < rng.random()
        result = mcnemar_exact(first, second)
        assert result.gained == sum(not a and b for a, b in zip(first, second, strict=True))
        assert result.lost == sum(a and not b for a, b in zip(first, second, strict=True))
        if differing := result.gained + result.lost:
            expected = binomtest(result.gained, differing).pvalue
            assert result.p_value == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("gained", "lost"), [(4000, 3700), (3000, 0)])
def test_mcnemar_of_thousands_of_differences_is_still_exact(gained, lost):
    result = mcnemar_exact([False] * gained + [True] * lost, [True] * gained + [False] * lost)
    assert (result.gained, result.lost) == (gained, lost)
    assert result.p_value == pytest.approx(binomtest(gained, gained + lost).pvalue, rel=1e-6)


def test_mcnemar_by_hand():
    # 1 of 5 differences: 2 * (1 + 5) / 32; 2 of 4 is the middle: at most 1; none at all says nothing.
    assert mcnemar_exact([0, 0, 0, 0, 1, 1], [1, 1, 1, 1, 0, 1]).p_value == pytest.approx(0.375)
    assert mcnemar_exact([1, 1, 0, 0], [0, 0, 1, 1]).p_value == 1
    assert mcnemar_exact([1, 0], [1, 0]).p_value == 1
    with pytest.raises(ValueError, match="pair"):
        mcnemar_exact([1], [1, 0])

"""Calibration agrees with scikit-learn and with slow definitions; its intervals cover what they say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import bootstrap, mannwhitneyu
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, roc_auc_score

from utils.calibration import (
    answer_bounds,
    answer_confidence,
    auroc,
    brier_score,
    calibration,
    expected_calibration_error,
    reliability,
    statistic_interval,
)


def random_answers(seed, count=300, ties=False):
    rng = np.random.default_rng(seed)
    confidence = rng.random(count)
    if ties:
        confidence = np.round(confidence, 1)
    return confidence, (rng.random(count) < confidence).astype(float)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_auroc_and_brier_score_agree_with_scikit_learn_and_scipy(seed, ties):
    confidence, right = random_answers(seed, ties=ties)
    assert auroc(confidence, right) == pytest.approx(roc_auc_score(right, confidence))
    statistic = mannwhitneyu(confidence[right > 0], confidence[right == 0]).statistic
    assert auroc(confidence, right) == pytest.approx(statistic / ((right > 0).sum() * (right == 0).sum()))
    assert brier_score(confidence, right) == pytest.approx(brier_score_loss(right, confidence))


def test_the_reliability_curve_agrees_with_scikit_learn():
    confidence, right = random_answers(5)
    accuracy, mean = calibration_curve(right, confidence, n_bins=10, strategy="uniform")
    curve = reliability(confidence, right)
    np.testing.assert_allclose([one["accuracy"] for one in curve], accuracy)
    np.testing.assert_allclose([one["confidence"] for one in curve], mean)
    assert sum(one["count"] for one in curve) == 300


def ece_by_definition(confidence, right, bins):
    total = 0.0
    for number in range(bins):
        inside = [
            place
            for place, value in enumerate(confidence)
            if number / bins < value <= (number + 1) / bins or (number == 0 and value == 0)
        ]
        if inside:
            accuracy = sum(right[place] for place in inside) / len(inside)
            mean = sum(confidence[place] for place in inside) / len(inside)
            total += len(inside) / len(confidence) * abs(accuracy - mean)
    return total


@pytest.mark.parametrize("bins", [1, 5, 10])
def test_ece_is_that_of_its_definition(bins):
    confidence, right = random_answers(6)
    assert expected_calibration_error(confidence, right, bins) == pytest.approx(
        ece_by_definition(confidence, right, bins)
    )


def test_ece_by_hand():
    # bins (.5, .6]: .6 and .6, one right: |.5 - .6| = .1; (.8, .9]: .9, right: .1. (2 * .1 + 1 * .1) / 3
    assert expected_calibration_error([0.6, 0.6, 0.9], [1, 0, 1]) == pytest.approx(0.1)
    # .6 belongs to (.5, .6] like .55: |.5 - .575|
    assert expected_calibration_error([0.55, 0.6], [1, 0]) == pytest.approx(0.075)
    # both ends of the scale are in a bin: never right at 1, always right at 0
    assert expected_calibration_error([1.0, 0.0], [0, 1]) == pytest.approx(1.0)


@pytest.mark.parametrize("right", [[1, 1], [0, 0]])
def test_without_both_right_and_wrong_answers_there_is_no_auroc(right):
    assert auroc([0.2, 0.7], right) is None
    assert calibration([0.2, 0.7], right, ["a", "b"])["auroc"] is None


def test_resamples_without_a_statistic_do_not_count():
    # Resamples of one patient alone have no AUROC; those with both have 1.
    interval = calibration([0.2, 0.7], [0, 1], ["a", "b"])["auroc"]
    assert interval == {"mean": 1.0, "lo": 1.0, "hi": 1.0}


@pytest.mark.parametrize(("confidence", "right"), [([], []), ([0.5], []), ([0.5], [1, 0])])
def test_confidences_and_outcomes_that_do_not_fit_are_an_error(confidence, right):
    with pytest.raises(ValueError, match="give one each"):
        expected_calibration_error(confidence, right)


def test_intervals_of_single_questions_agree_with_scipy():
    values = np.random.default_rng(2).exponential(size=80)
    interval = statistic_interval(lambda rows: float(values[rows].mean()), list(range(80)), resamples=4000)
    expected = bootstrap((values,), np.mean, method="percentile", n_resamples=4000, rng=np.random.default_rng(0))
    low, high = expected.confidence_interval
    # two draws of 4,000: the standard error of an end is about .02 of the deviation of the mean, .11
    assert (interval.lo, interval.hi) == pytest.approx((low, high), abs=0.02)


def test_the_interval_of_auroc_covers_it_as_often_as_it_says():
    # 100 worlds of 60 patients with 1 to 4 questions; wrong answers have scores N(0, 1), right ones N(1, 1), half of
    # each spread shared within the patient: AUROC = P(N(1, 2) > 0) = Phi(1 / sqrt 2) over pairs of patients. The
    # standard error of an observed coverage of .95 is .022; the percentile bootstrap runs slightly low.
    truth = 0.5 * (1 + math.erf(0.5))
    covered = by_question = 0
    for world in range(100):
        rng = np.random.default_rng((7, world))
        counts = rng.integers(1, 5, 60)
        clusters = np.repeat(np.arange(60), counts)
        right = np.repeat(rng.random(60) < 0.5, counts).astype(float)
        shared = np.repeat(rng.normal(size=60), counts)
        scores = right + math.sqrt(0.5) * shared + math.sqrt(0.5) * rng.normal(size=counts.sum())

        def covers(groups, scores=scores, right=right, world=world):
            found = statistic_interval(lambda rows: auroc(scores[rows], right[rows]), groups, resamples=200, seed=world)
            return found.lo <= truth <= found.hi

        covered += covers(clusters.tolist())
        by_question += covers(list(range(len(right))))
    assert 0.87 <= covered / 100 <= 0.99
    assert by_question < covered  # drawing single questions promises too much


PIECES = ["<think>", "a", "</think>", "<ans", "wer>", " y", "es", ", no ", "</answer>", ""]


@pytest.mark.parametrize(
    ("pieces", "chosen", "reason"),
    [
        (PIECES, [5, 6, 7], "the tokens that overlap the inside of the span, without the blanks around it"),
        (["<answer>", "</ans", "wer>", ""], [1, 2], "nothing inside: to close at once is the answer"),
        (["<answer>", "  ", "</answer>"], [2], "blanks are nothing"),
        (["No", ".", " The", " lungs"], [0], "without a span the first sentence"),
        (["<answer>", "yes"], [0, 1], "a span that is not closed is none"),
        (["", ""], [0, 1], "an empty text: all tokens"),
        (["x <answer>", "", "é", "</answer>"], [1, 2], "the first bytes of a character belong to it"),
        (["<answer>yes</answer> no"], [0], "a token that holds the whole span"),
    ],
)
def test_confidence_is_the_geometric_mean_over_the_tokens_of_the_answer(pieces, chosen, reason):
    logprobs = [math.log(0.5 + 0.04 * place) for place in range(len(pieces))]
    expected = math.exp(sum(logprobs[place] for place in chosen) / len(chosen))
    assert answer_confidence(pieces, logprobs) == pytest.approx(expected), reason


def test_bounds_are_places_in_the_text():
    text = "<think>x</think><answer> left lung </answer>"
    start, end = answer_bounds(text)
    assert text[start:end] == "left lung"


def test_tokens_without_a_number_each_are_an_error():
    with pytest.raises(ValueError, match="one each"):
        answer_confidence(["a", "b"], [0.0])

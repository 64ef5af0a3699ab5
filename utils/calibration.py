"""Confidence of answers from token probabilities, and how well it is calibrated.

The *confidence* of an answer is the geometric mean of the probabilities of the answer's tokens, exp(mean log-prob). The
answer's tokens are those that overlap the inside of the first ``<answer>...</answer>``. If nothing is inside, they are
the tokens of the closing tag, because the empty answer is then expressed by closing at once. If there is no complete
span, they are the tokens of the first sentence (``utils.answers``), or all tokens if that is empty too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np

from utils.answers import first_sentence
from utils.intervals import LEVEL, RESAMPLES, Interval

BINS = 10
_OPENING, _CLOSING = "<answer>", "</answer>"


def answer_bounds(text: str) -> tuple[int, int]:
    """Start and end of the answer's characters in ``text``, by the rule at the top of this module."""
    opening = text.find(_OPENING)
    start, end = opening + len(_OPENING), text.find(_CLOSING, opening)
    if opening < 0 or end < 0:
        sentence = first_sentence(text)
        start = text.find(sentence)
        return (start, start + len(sentence)) if sentence else (0, len(text))
    inside = text[start:end]
    if not inside.strip():
        return end, end + len(_CLOSING)
    return start + len(inside) - len(inside.lstrip()), start + len(inside.rstrip())


def answer_confidence(tokens: Sequence[str], logprobs: Sequence[float]) -> float:
    """The confidence, 0 to 1, of the answer in a text. The ``tokens`` joined are the text.

    Raises ValueError if the lengths differ or there are no tokens.
    """
    if len(tokens) != len(logprobs) or not tokens:
        raise ValueError(f"{len(tokens)} tokens with {len(logprobs)} log-probabilities; give one each, at least one")
    start, end = answer_bounds("".join(tokens))
    chosen, position = [], 0
    for token, logprob in zip(tokens, logprobs, strict=True):
        # An empty token holds the first bytes of the character that comes next.
        if (start < position + len(token) and position < end) or (not token and start <= position < end):
            chosen.append(logprob)
        position += len(token)
    return math.exp(math.fsum(chosen or logprobs) / len(chosen or logprobs))


def reliability(confidence: Sequence[float], right: Sequence[float], bins: int = BINS) -> list[dict[str, float]]:
    """The reliability curve: (0, 1] in equal bins, without the bins that hold no answer.

    Each bin is ``{"low", "high", "count", "confidence", "accuracy"}``, the last two being means over its answers. A
    confidence of 0 falls in the first bin.
    """
    confidence, right = _pair(confidence, right)
    member = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    return [
        {
            "low": number / bins,
            "high": (number + 1) / bins,
            "count": int(inside.sum()),
            "confidence": float(confidence[inside].mean()),
            "accuracy": float(right[inside].mean()),
        }
        for number in range(bins)
        if (inside := member == number).any()
    ]


def expected_calibration_error(confidence: Sequence[float], right: Sequence[float], bins: int = BINS) -> float:
    """Expected calibration error: |accuracy - confidence| per bin of :func:`reliability`, averaged over answers."""
    confidence, right = _pair(confidence, right)
    member = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    return float(np.abs(np.bincount(member, right - confidence, bins)).sum() / len(right))


def auroc(confidence: Sequence[float], right: Sequence[float]) -> float | None:
    """The chance that a right answer has more confidence than a wrong one. A tie counts as half.

    None if all answers are right, or all are wrong.
    """
    confidence, right = _pair(confidence, right)
    positive, negative = int((right > 0).sum()), int((right <= 0).sum())
    if not positive or not negative:
        return None
    _, place, counts = np.unique(confidence, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]  # ties share the mean of their ranks
    return float((ranks[right > 0].sum() - positive * (positive + 1) / 2) / (positive * negative))


def brier_score(confidence: Sequence[float], right: Sequence[float]) -> float:
    """The mean of (confidence - right) squared."""
    confidence, right = _pair(confidence, right)
    return float(np.mean((confidence - right) ** 2))


def calibration(confidence: Sequence[float], right: Sequence[float], clusters: Sequence[Hashable]) -> dict[str, Any]:
    """Calibration scores of answers, ``{"ece", "auroc", "brier", "bins"}``; ``clusters`` holds each answer's patient.

    The first three are ``{"mean", "lo", "hi"}``, with 95% intervals that draw whole patients. ``auroc`` is None if it
    does not exist (see :func:`auroc`). ``bins`` is the :func:`reliability` curve.
    """
    confidence, right = _pair(confidence, right)
    scores: dict[str, Callable[..., float | None]] = {
        "ece": expected_calibration_error,
        "auroc": auroc,
        "brier": brier_score,
    }
    intervals = {
        name: statistic_interval(lambda rows, score=score: score(confidence[rows], right[rows]), clusters)
        for name, score in scores.items()
    }
    return {
        **{name: None if interval is None else interval.as_dict() for name, interval in intervals.items()},
        "bins": reliability(confidence, right),
    }


def statistic_interval(
    statistic: Callable[[np.ndarray], float | None],
    clusters: Sequence[Hashable],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval | None:
    """The value of any ``statistic`` of row numbers, with its 95% percentile bootstrap interval.

    Clusters are drawn as in :func:`utils.intervals.mean_interval`. Resamples for which the statistic is None do not
    count. The result is None if the statistic of all rows is None.
    """
    whole = statistic(np.arange(len(clusters)))
    if whole is None:
        return None
    members: dict[Hashable, list[int]] = {}
    for row, cluster in enumerate(clusters):
        members.setdefault(cluster, []).append(row)
    groups = [np.array(rows) for rows in members.values()]
    draws = np.random.default_rng(seed).integers(0, len(groups), (resamples, len(groups)))
    values = [statistic(np.concatenate([groups[drawn] for drawn in row])) for row in draws]
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile([value for value in values if value is not None], [tail, 100 - tail])
    return Interval(whole, float(low), float(high))


def _pair(confidence: Sequence[float], right: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64 arrays [N]. Raises ValueError if their lengths differ or they are empty."""
    confidence, right = np.asarray(confidence, dtype=np.float64), np.asarray(right, dtype=np.float64)
    if confidence.shape != right.shape or confidence.ndim != 1 or not len(right):
        raise ValueError(f"{confidence.shape} confidences do not go with {right.shape} outcomes; give one each")
    return confidence, right

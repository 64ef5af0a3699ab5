"""Summary of a file of results: metrics with intervals, overall and by kind of question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from utils.calibration import calibration
from utils.intervals import column_intervals
from utils.metrics import RULES, TRAINING_RULE, Result, answer_scores, question_metrics
from utils.questions import group_rows, patients

TYPES = ("question_type", "semantic_type", "content_type")


def summarize_results(results: Sequence[Result]) -> dict[str, Any]:
    """The part of a result file that is computed from ``results``.

    metrics      {name: {"mean", "lo", "hi"}}, see `utils.metrics.question_metrics`
    by_type      {field: {value: {"questions", "metrics"}}} for the rules of accuracy, the most frequent value first
    by_answer    see `utils.metrics.answer_scores`
    calibration  see `utils.calibration`; only if there are log-probabilities of tokens

    Intervals are 95% bootstrap intervals that draw whole patients. Raises ValueError if there are no results.
    """
    values, clusters = question_metrics(results), patients(results)
    summary = {
        "metrics": intervals(values, clusters),
        "by_type": by_type(results, {name: values[name] for name in RULES}),
        "by_answer": answer_scores(results),
    }
    if "confidence" in values:
        curve = calibration(values["confidence"], values[TRAINING_RULE], clusters)
        summary["calibration"] = {"right_by": TRAINING_RULE, **curve}
    return summary


def intervals(values: Mapping[str, np.ndarray], clusters: Sequence[str]) -> dict[str, dict[str, float]]:
    """The mean of each array [N] with its interval, by name. NaN does not count."""
    found = column_intervals(values, clusters)
    return {name: interval.as_dict() for name, interval in found.items() if interval is not None}


def by_type(results: Sequence[Result], values: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """``values`` averaged over the questions of each value of each type field. Fields that no result has are left
    out."""
    clusters = np.array(patients(results))
    found: dict[str, dict[str, Any]] = {}
    for field in TYPES:
        if members := group_rows(results, field):
            found[field] = {
                value: {
                    "questions": len(rows),
                    "metrics": intervals({name: column[rows] for name, column in values.items()}, clusters[rows]),
                }
                for value, rows in members.items()
            }
    return found


def summarize_given(results: Sequence[Result]) -> dict[str, Any]:
    """The part of a result file that is computed from ``results`` if given texts were scored.

    given_length         number of tokens
    given_logprob        log-probability, summed over the text
    given_token_logprob  log-probability, averaged over the text's tokens
    given_top1           share of tokens that were the most likely
    """
    rows = [(np.array(row["given_token_logprobs"]), np.array(row["given_token_ranks"])) for row in results]
    values = {
        "given_length": np.array([len(logprobs) for logprobs, _ in rows], dtype=np.float64),
        "given_logprob": np.array([logprobs.sum() for logprobs, _ in rows]),
        "given_token_logprob": np.array([logprobs.mean() for logprobs, _ in rows]),
        "given_top1": np.array([(ranks == 1).mean() for _, ranks in rows]),
    }
    return {"metrics": intervals(values, patients(results)), "by_type": by_type(results, values)}

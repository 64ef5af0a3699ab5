"""Scores of the graphs of generated texts against those of their references, with intervals, and the facts that were
invented and left out most often.

Every score has two forms. *Per question*: the mean of each question's score by `ReXKG.graph`. *Pooled*: counts are
summed over all questions first, so a question weighs as much as it has entities. Both have 95% intervals that draw
whole patients (`utils.intervals`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ReXKG.graph import DENIED_TYPES, Graph, asserted, hallucinated
from ReXKG.scores import CountedScore, score_question
from tools.reports.result_files import GROUPINGS
from utils.intervals import LEVEL, RESAMPLES, Interval, ratio_intervals
from utils.questions import clusters_in_words, group_rows, patients

MOST_FREQUENT = 20
EXAMPLES = 10
AUDIT_GROUPINGS = GROUPINGS | {"is_correct": "right by substring"}


@dataclass(frozen=True)
class Audited:
    """Results, each with ``dataset`` and ``idx``, and the graphs of their generated and reference texts and of their
    reports (None: no report), in one order."""

    results: Sequence[Mapping[str, Any]]
    predicted: Sequence[Graph]
    references: Sequence[Graph]
    reports: Sequence[Graph | None]

    def __post_init__(self) -> None:
        lengths = {len(self.results), len(self.predicted), len(self.references), len(self.reports)}
        if len(lengths) != 1:
            raise ValueError(f"results, graphs and reports must be as many, they are {sorted(lengths)}")


def summarize_audited(
    scores: Sequence[Mapping[str, CountedScore]], clusters: Sequence[str]
) -> dict[str, dict[str, Interval]]:
    """``{name: {"per_question", "pooled"}}`` over questions [N] with the patient of each. A score counts for the
    questions that have it. Scores that no question has, and ratios of nothing, are left out."""
    names = list(dict.fromkeys(name for row in scores for name in row))
    absent = CountedScore(0.0, 0, 0)
    table = np.array([[row.get(name, absent) for name in names] for row in scores], dtype=np.float64)  # [N, names, 3]
    has = np.array([[name in row for name in names] for row in scores], dtype=np.float64)
    tops = np.concatenate([table[..., 0], table[..., 1]], axis=1)
    bottoms = np.concatenate([has, table[..., 2]], axis=1)
    intervals = ratio_intervals(tops, bottoms, clusters)
    per_question, pooled = intervals[: len(names)], intervals[len(names) :]
    return {
        name: {"per_question": mean} | ({"pooled": share} if share else {})
        for name, mean, share in zip(names, per_question, pooled, strict=True)
    }


def most_frequent(pairs: Sequence[tuple[Graph, Graph]], count: int = MOST_FREQUENT) -> list[dict[str, Any]]:
    """The entities that the first graph of a pair asserts and the second does not, the most frequent first: ``{"text",
    "type", "count", "of", "denied"}``. ``of`` counts the first graphs that assert the entity, and ``denied`` the second
    graphs that call it absent."""
    said, wrong, denied = Counter(), Counter(), Counter()
    for graph, other in pairs:
        extra = hallucinated(graph, other)
        said.update(asserted(graph))
        wrong.update(extra)
        denied.update(pair for pair in extra if other["entities"].get(pair[0]) in DENIED_TYPES)
    ranked = sorted(wrong, key=lambda pair: (-wrong[pair], pair))[:count]
    return [
        {"text": pair[0], "type": pair[1], "count": wrong[pair], "of": said[pair], "denied": denied[pair]}
        for pair in ranked
    ]


def worst_examples(audited: Audited, count: int = EXAMPLES) -> list[dict[str, Any]]:
    """The questions with the most invented entities, then the most omitted ones. They hold no other words of the data,
    so that the numbers can be passed on."""
    rows = []
    for result, predicted, truth in zip(audited.results, audited.predicted, audited.references, strict=True):
        invented = sorted(text for text, _ in hallucinated(predicted, truth))
        left_out = sorted(text for text, _ in hallucinated(truth, predicted))
        if invented or left_out:
            name = {"dataset": result["dataset"], "idx": result["idx"]}
            rows.append(name | {"hallucinated": invented, "omitted": left_out})
    rows.sort(key=lambda row: (-len(row["hallucinated"]), -len(row["omitted"])))
    return rows[:count]


def audit(audited: Audited) -> dict[str, Any]:
    """The whole audit in the form of its JSON, except that intervals are `Interval`."""
    scores = [
        score_question(*graphs) for graphs in zip(audited.predicted, audited.references, audited.reports, strict=True)
    ]
    clusters = patients(audited.results)
    groups = {field: group_rows(audited.results, field) for field in AUDIT_GROUPINGS}
    pairs = list(zip(audited.predicted, audited.references, strict=True))
    return {
        "questions": len(scores),
        "patients": len(set(clusters)),
        "clusters": clusters_in_words(audited.results),
        "with_report": sum(report is not None for report in audited.reports),
        "level": LEVEL,
        "resamples": RESAMPLES,
        "scores": summarize_audited(scores, clusters),
        "breakdown": {
            field: {
                value: {
                    "questions": len(rows),
                    "scores": summarize_audited([scores[row] for row in rows], [clusters[row] for row in rows]),
                }
                for value, rows in members.items()
            }
            for field, members in groups.items()
            if len(members) > 1
        },
        "hallucinated": most_frequent(pairs),
        "omitted": most_frequent([(truth, predicted) for predicted, truth in pairs]),
        "examples": worst_examples(audited),
    }

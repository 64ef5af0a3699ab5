"""All scores of a predicted graph against its reference, each with the counts whose ratio it is."""

from __future__ import annotations

from typing import NamedTuple

from ReXKG.graph import (
    Graph,
    asserted,
    entity_pairs,
    graph_f1,
    graph_jaccard,
    hallucinated,
    hallucination_rate,
    jaccard,
    omission_rate,
    relation_triples,
    set_scores,
)


class CountedScore(NamedTuple):
    """A score of one question and the counts whose ratio it is; both are 0 if it is not a ratio of counts."""

    value: float
    part: int
    whole: int


def score_question(predicted: Graph, reference: Graph, report: Graph | None = None) -> dict[str, CountedScore]:
    """The scores of one question by name.

    entity_*, relation_*        precision, recall, f1 and jaccard of (text, type) pairs and of triples
    kg_jaccard, kg_f1           the rewards: the mean of both Jaccards and the mean of both F1s
    hallucination, omission     see `ReXKG.graph`
    hallucination_with_report   the same, but what the study's report asserts is not a hallucination; only with a report
    """
    scores: dict[str, CountedScore] = {}
    for kind, members in (("entity", entity_pairs), ("relation", relation_triples)):
        guess, truth = members(predicted), members(reference)
        hits, (precision, recall, f1) = len(guess & truth), set_scores(guess, truth)
        scores[f"{kind}_precision"] = CountedScore(precision, hits, len(guess))
        scores[f"{kind}_recall"] = CountedScore(recall, hits, len(truth))
        scores[f"{kind}_f1"] = CountedScore(f1, 2 * hits, len(guess) + len(truth))
        scores[f"{kind}_jaccard"] = CountedScore(jaccard(guess, truth), hits, len(guess | truth))
    scores["kg_jaccard"] = CountedScore(graph_jaccard(predicted, reference), 0, 0)
    scores["kg_f1"] = CountedScore(graph_f1(predicted, reference), 0, 0)
    claims, facts = asserted(predicted), asserted(reference)
    invented, omitted = hallucinated(predicted, reference), hallucinated(reference, predicted)
    scores["hallucination"] = CountedScore(hallucination_rate(predicted, reference), len(invented), len(claims))
    scores["omission"] = CountedScore(omission_rate(predicted, reference), len(omitted), len(facts))
    if report is not None:
        unknown = len(invented - asserted(report))
        rate = unknown / len(claims) if claims else 0.0
        scores["hallucination_with_report"] = CountedScore(rate, unknown, len(claims))
    return scores

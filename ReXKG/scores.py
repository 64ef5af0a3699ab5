"""Every score of a predicted graph against its reference, with the counts that it is the ratio of."""

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


class Score(NamedTuple):
    """One question's score: its value, and the counts that it is the ratio of (0, 0 where it is no ratio)."""

    value: float
    part: int
    whole: int


def score_question(predicted: Graph, reference: Graph, report: Graph | None = None) -> dict[str, Score]:
    """The scores of one question by name.

    entity_*, relation_*        precision, recall, f1 and jaccard of (text, type) pairs and of triples
    kg_jaccard, kg_f1           the rewards: the mean of both Jaccards, of both F1s
    hallucination, omission     see `ReXKG.graph`
    hallucination_with_report   as hallucination, but what the study's report asserts is no invention either; only with
                                a report
    """
    scores = {}
    for kind, members in (("entity", entity_pairs), ("relation", relation_triples)):
        mine, truth = members(predicted), members(reference)
        hits, (precision, recall, f1) = len(mine & truth), set_scores(mine, truth)
        scores[f"{kind}_precision"] = Score(precision, hits, len(mine))
        scores[f"{kind}_recall"] = Score(recall, hits, len(truth))
        scores[f"{kind}_f1"] = Score(f1, 2 * hits, len(mine) + len(truth))
        scores[f"{kind}_jaccard"] = Score(jaccard(mine, truth), hits, len(mine | truth))
    scores["kg_jaccard"] = Score(graph_jaccard(predicted, reference), 0, 0)
    scores["kg_f1"] = Score(graph_f1(predicted, reference), 0, 0)
    claims, facts = asserted(predicted), asserted(reference)
    scores["hallucination"] = Score(
        hallucination_rate(predicted, reference), len(hallucinated(predicted, reference)), len(claims)
    )
    scores["omission"] = Score(omission_rate(predicted, reference), len(hallucinated(reference, predicted)), len(facts))
    if report is not None:
        unknown = len(hallucinated(predicted, reference) - asserted(report))
        scores["hallucination_with_report"] = Score(unknown / len(claims) if claims else 0.0, unknown, len(claims))
    return scores

"""Scores of knowledge graphs against the obvious definition, edge cases by hand, and the merging of sentences."""

import random

import pytest

from ReXKG.graph import (
    ENTITY_TYPES,
    RELATION_TYPES,
    SentenceGraph,
    entity_pairs,
    entity_scores,
    graph_jaccard,
    hallucination_rate,
    jaccard,
    merge_sentences,
    omission_rate,
    relation_scores,
    relation_triples,
    set_scores,
)
from tests.support.graphs import EFFUSION, EMPTY, NO_EFFUSION, make_graph, random_graph


def count_jaccard(a: list, b: list) -> float:
    """Jaccard by walking lists, without sets."""
    union = []
    for item in a + b:
        if item not in union:
            union.append(item)
    both = [item for item in union if item in a and item in b]
    return len(both) / len(union) if union else 1.0


def slow_graph_jaccard(p, r):
    entities = count_jaccard(list(p["entities"].items()), list(r["entities"].items()))
    relations = count_jaccard(p["relations"], r["relations"])
    return 0.5 * entities + 0.5 * relations


def test_label_order_is_that_of_the_published_checkpoints():
    assert ENTITY_TYPES == (
        "size", "anatomy", "disorder_present", "disorder_notpresent",
        "concept", "procedures", "devices_present", "devices_notpresent",
    )  # fmt: skip
    assert RELATION_TYPES == ("located_at", "suggestive_of", "modify")


def test_graph_jaccard_equals_counting_by_hand_on_random_graphs():
    rng = random.Random(7)
    for _ in range(2000):
        p, r = random_graph(rng), random_graph(rng)
        assert graph_jaccard(p, r) == pytest.approx(slow_graph_jaccard(p, r), abs=1e-12)


def test_graph_jaccard_by_hand():
    # Entities: {effusion present, pleural} and {effusion not present, pleural}: 1 shared of 3. Relations: 1 of 1.
    assert graph_jaccard(EFFUSION, NO_EFFUSION) == pytest.approx((1 / 3 + 1) / 2)


def test_two_empty_graphs_agree_and_one_empty_graph_does_not():
    assert graph_jaccard(EMPTY, EMPTY) == 1.0
    assert graph_jaccard(EFFUSION, EMPTY) == 0.0


def test_a_missing_relation_list_on_both_sides_counts_as_agreement():
    # Entities 1 of 2 shared, relations both empty: (0.5 + 1) / 2.
    p = make_graph({"heart": "anatomy"})
    r = make_graph({"heart": "anatomy", "normal": "concept"})
    assert graph_jaccard(p, r) == 0.75


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [(set(), set(), 1.0), ({1}, set(), 0.0), ({1, 2}, {2, 3}, 1 / 3), ({1}, {1}, 1.0)],
)
def test_jaccard(a, b, expected):
    assert jaccard(a, b) == jaccard(b, a) == expected


@pytest.mark.parametrize(
    ("predicted", "reference", "expected"),
    [
        (set(), set(), (1.0, 1.0, 1.0)),
        ({1}, set(), (0.0, 0.0, 0.0)),
        (set(), {1}, (0.0, 0.0, 0.0)),
        ({1, 2}, {3}, (0.0, 0.0, 0.0)),
        ({1, 2, 3, 4}, {1, 2, 5}, (2 / 4, 2 / 3, 4 / 7)),  # 2 hits, 4 predicted, 3 right: F1 = 2 * 2 / (4 + 3)
    ],
)
def test_precision_recall_and_f1(predicted, reference, expected):
    assert set_scores(predicted, reference) == pytest.approx(expected)


def test_entity_and_relation_scores_need_type_and_text():
    assert entity_scores(EFFUSION, NO_EFFUSION).f1 == 0.5
    assert relation_scores(EFFUSION, NO_EFFUSION).f1 == 1.0


@pytest.mark.parametrize(
    ("predicted", "reference", "hallucinated", "omitted"),
    [
        (EMPTY, EMPTY, 0.0, 0.0),
        (EFFUSION, EMPTY, 1.0, 0.0),
        (EMPTY, EFFUSION, 0.0, 1.0),
        (EFFUSION, EFFUSION, 0.0, 0.0),
        (EFFUSION, NO_EFFUSION, 1.0, 0.0),  # asserted, and the reference denies it
        (NO_EFFUSION, EFFUSION, 0.0, 1.0),  # denied, and the reference asserts it
    ],
)
def test_hallucination_and_omission(predicted, reference, hallucinated, omitted):
    assert hallucination_rate(predicted, reference) == hallucinated
    assert omission_rate(predicted, reference) == omitted


def test_hallucination_counts_disorders_and_devices_and_nothing_else():
    predicted = make_graph(
        {"effusion": "disorder_present", "tube": "devices_present", "left": "concept", "edema": "disorder_notpresent"}
    )
    reference = make_graph({"tube": "devices_present"})
    assert hallucination_rate(predicted, reference) == 0.5  # effusion of {effusion, tube}
    assert omission_rate(predicted, reference) == 0.0


def test_merging_keeps_the_later_type_and_appends_relations():
    first = SentenceGraph(
        "no effusion", {"effusion": "disorder_notpresent", "left": "concept"}, (("a", "b", "modify"),)
    )
    second = SentenceGraph(
        "effusion", {"effusion": "disorder_present"}, (("a", "b", "modify"), ("c", "d", "located_at"))
    )
    graph = merge_sentences([first, second], doc_key="7")
    assert graph["entities"] == {"effusion": "disorder_present", "left": "concept"}
    assert [(r["source_entity"], r["type"]) for r in graph["relations"]] == [
        ("a", "modify"), ("a", "modify"), ("c", "located_at"),
    ]  # fmt: skip
    assert graph["sentences"] == "no effusion effusion"
    assert graph["doc_key"] == "7"
    assert relation_triples(graph) == {("a", "b", "modify"), ("c", "d", "located_at")}
    assert entity_pairs(graph) == {("effusion", "disorder_present"), ("left", "concept")}


def test_merging_nothing_gives_an_empty_graph():
    assert merge_sentences([], doc_key="0") == EMPTY

"""Knowledge graphs and their comparison.

The published form (ReXKG, arXiv 2408.14397) is a dictionary ``{"sentences": str, "entities": {text: type}, "relations":
[{"source_entity", "target_entity", "type"}], "doc_key": str}``. All scores below are computed from its set of (text,
type) pairs and its set of (source, target, type) triples, so word order and repetition never matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

Graph = dict[str, Any]

SIZE = "size"
ANATOMY = "anatomy"
DISORDER_PRESENT = "disorder_present"
DISORDER_ABSENT = "disorder_notpresent"
CONCEPT = "concept"
PROCEDURES = "procedures"
DEVICES_PRESENT = "devices_present"
DEVICES_ABSENT = "devices_notpresent"

LOCATED_AT = "located_at"
SUGGESTIVE_OF = "suggestive_of"
MODIFY = "modify"

# In the order of the published checkpoints' labels; label 0 of both is "none".
ENTITY_TYPES = (
    SIZE, ANATOMY, DISORDER_PRESENT, DISORDER_ABSENT, CONCEPT, PROCEDURES, DEVICES_PRESENT, DEVICES_ABSENT,
)  # fmt: skip
RELATION_TYPES = (LOCATED_AT, SUGGESTIVE_OF, MODIFY)

ASSERTED_TYPES = frozenset({DISORDER_PRESENT, DEVICES_PRESENT})
DENIED_TYPES = frozenset({DISORDER_ABSENT, DEVICES_ABSENT})


class SentenceGraph(NamedTuple):
    """The graph of one sentence: its words joined with blanks, text to type (the later mention of a text wins), and
    (source, target, type) triples. Extractors cache it, so it must not be changed."""

    sentence: str
    entities: Mapping[str, str]
    relations: tuple[tuple[str, str, str], ...]


class SetScores(NamedTuple):
    """Precision, recall and their harmonic mean F1, each from 0 to 1."""

    precision: float
    recall: float
    f1: float


def merge_sentences(sentences: Iterable[SentenceGraph], doc_key: str) -> Graph:
    """The graph of a text from those of its sentences. Entities merge by text and the later type wins. Relations are
    appended."""
    words: list[str] = []
    entities: dict[str, str] = {}
    relations: list[dict[str, str]] = []
    for sentence in sentences:
        words.append(sentence.sentence)
        entities.update(sentence.entities)
        relations += [{"source_entity": s, "target_entity": t, "type": r} for s, t, r in sentence.relations]
    return {"sentences": " ".join(words), "entities": entities, "relations": relations, "doc_key": doc_key}


def entity_pairs(graph: Graph) -> set[tuple[str, str]]:
    """The graph's (text, type) pairs."""
    return set(graph["entities"].items())


def relation_triples(graph: Graph) -> set[tuple[str, str, str]]:
    """The graph's (source, target, type) triples."""
    return {(r["source_entity"], r["target_entity"], r["type"]) for r in graph["relations"]}


def jaccard(a: set, b: set) -> float:
    """|a & b| / |a | b|. Two empty sets agree completely: 1.0."""
    union = len(a | b)
    return len(a & b) / union if union else 1.0


def graph_jaccard(predicted: Graph, reference: Graph) -> float:
    """The mean of entity Jaccard and relation Jaccard, the published reward; 1.0 for two empty graphs."""
    entities = jaccard(entity_pairs(predicted), entity_pairs(reference))
    relations = jaccard(relation_triples(predicted), relation_triples(reference))
    return (entities + relations) / 2


def empty_unions(predicted: Graph, reference: Graph) -> int:
    """The number of Jaccard indexes of `graph_jaccard` that are 1.0 because neither graph has a member, 0 to 2."""
    sides = predicted, reference
    return (not any(map(entity_pairs, sides))) + (not any(map(relation_triples, sides)))


def set_scores(predicted: set, reference: set) -> SetScores:
    """Precision |p & r| / |p|, recall |p & r| / |r| and F1 2 |p & r| / (|p| + |r|).

    Both empty: all 1.0 (nothing to find, nothing invented). One empty: all 0.0."""
    if not predicted and not reference:
        return SetScores(1.0, 1.0, 1.0)
    if not predicted or not reference:
        return SetScores(0.0, 0.0, 0.0)
    hits = len(predicted & reference)
    return SetScores(hits / len(predicted), hits / len(reference), 2 * hits / (len(predicted) + len(reference)))


def entity_scores(predicted: Graph, reference: Graph) -> SetScores:
    """`set_scores` of the entities of two graphs; an entity needs the right text and type."""
    return set_scores(entity_pairs(predicted), entity_pairs(reference))


def relation_scores(predicted: Graph, reference: Graph) -> SetScores:
    """`set_scores` of the relations of two graphs; a relation needs the right source, target and type."""
    return set_scores(relation_triples(predicted), relation_triples(reference))


def graph_f1(predicted: Graph, reference: Graph) -> float:
    """The mean of entity F1 and relation F1; 1.0 for two empty graphs. If neither graph has a relation (or an entity),
    the other F1 alone, so that an absence on both sides earns nothing."""
    parts = [(entity_pairs(predicted), entity_pairs(reference))]
    parts.append((relation_triples(predicted), relation_triples(reference)))
    scores = [set_scores(guess, truth).f1 for guess, truth in parts if guess or truth]
    return sum(scores) / len(scores) if scores else 1.0


def asserted(graph: Graph) -> set[tuple[str, str]]:
    """The disorders and devices that the text says are present, as (text, type) pairs."""
    return {pair for pair in graph["entities"].items() if pair[1] in ASSERTED_TYPES}


def hallucinated(predicted: Graph, reference: Graph) -> set[tuple[str, str]]:
    """The disorders and devices that the prediction asserts and the reference lacks or negates. With the arguments
    exchanged, these are the ones that the prediction omits."""
    return asserted(predicted) - entity_pairs(reference)


def hallucination_rate(predicted: Graph, reference: Graph) -> float:
    """The share of the prediction's asserted disorders and devices that the reference lacks or negates, 0 to 1.

    A prediction that asserts nothing invents nothing: 0.0 with any reference. A reference that asserts nothing makes
    every assertion a hallucination: 1.0."""
    claims = asserted(predicted)
    return len(hallucinated(predicted, reference)) / len(claims) if claims else 0.0


def omission_rate(predicted: Graph, reference: Graph) -> float:
    """The share of the reference's asserted disorders and devices that the prediction lacks or negates, 0 to 1.

    The mirror of `hallucination_rate`: 0.0 if the reference asserts nothing, 1.0 if only the reference asserts
    anything."""
    return hallucination_rate(reference, predicted)

"""Scores of evaluated questions. A *result* is one object of the ``results`` list of an evaluation file; what is read
of it here: ``answer``, ``explanation``, ``generated_text``, ``num_tokens``.

Three rules say whether an answer is right, from lenient to strict:

    substring       any reference answer is a substring of the lower-cased output. The published rule: it finds "no"
                    in "abnormal", and an empty reference is never right.
    answer_overlap  the parsed answers share one with the reference, as in the training reward (``utils.answers``).
    exact_set       the parsed answers are the reference, no more and no less.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ReXKG.graph import Graph, entity_scores, graph_jaccard
from utils.answers import answers_agree, has_think_answer_shape, normalise_answers, parse_answers, think_text
from utils.get_knowledge_graph import extract_knowledge_graph

Result = Mapping[str, Any]


def contains_answer(text: str, reference: frozenset[str]) -> bool:
    """The published rule, ``substring``."""
    return any(answer in text.lower() for answer in reference)


ACCURACY_RULES: dict[str, Callable[[str, frozenset[str]], bool]] = {
    "substring": contains_answer,
    "answer_overlap": lambda text, reference: answers_agree(parse_answers(text), reference),
    "exact_set": lambda text, reference: parse_answers(text) == reference,
}
PUBLISHED_RULE = "substring"
TRAINING_RULE = "answer_overlap"


def reference_answers(result: Result) -> frozenset[str]:
    """The right answers of a question: its ``answer`` list (or text, split at commas), else those parsed from its
    ``explanation``. Raises ValueError where it has neither."""
    answer, explanation = result.get("answer"), result.get("explanation")
    if isinstance(answer, str):
        return normalise_answers(answer.split(","))
    if isinstance(answer, Sequence) and all(isinstance(item, str) for item in answer):
        return normalise_answers(answer)
    if answer is not None:
        raise ValueError(f"field 'answer' must be a list of texts, it is {answer!r}; mend it")
    if not isinstance(explanation, str):
        raise ValueError("there is no 'answer' and no 'explanation' to score against; add the answer")
    return parse_answers(explanation)


def judge(text: str, reference: frozenset[str]) -> dict[str, bool]:
    """Whether an output is right, by each rule."""
    return {name: bool(rule(text, reference)) for name, rule in ACCURACY_RULES.items()}


def reasoning_graphs(texts: Sequence[str]) -> list[Graph]:
    """The knowledge graph of each text's reasoning: its ``<think>`` part, or the whole where there is none."""
    return extract_knowledge_graph([think_text(text) for text in texts])


def question_metrics(results: Sequence[Result]) -> dict[str, np.ndarray]:
    """One value per question, each array [N] float64.

    accuracy    0 or 1 by the training rule, ``answer_overlap``
    kg_jaccard  mean of entity and relation Jaccard of the two reasonings' graphs, as in the reward
    entity_f1   F1 of the (text, type) pairs of the two graphs
    length      tokens generated, the end token counted
    format      1 for one <think> span, then one <answer> span, and nothing else

    The graph metrics are left out unless every question has an ``explanation`` to compare with.
    """
    texts = [result["generated_text"] for result in results]
    right = [judge(text, reference_answers(result))[TRAINING_RULE] for text, result in zip(texts, results, strict=True)]
    metrics = {
        "accuracy": right,
        "length": [result["num_tokens"] for result in results],
        "format": [has_think_answer_shape(text) for text in texts],
    }
    if all(result.get("explanation") for result in results):
        predicted = reasoning_graphs(texts)
        references = reasoning_graphs([result["explanation"] for result in results])
        pairs = list(zip(predicted, references, strict=True))
        metrics["kg_jaccard"] = [graph_jaccard(*pair) for pair in pairs]
        metrics["entity_f1"] = [entity_scores(*pair).f1 for pair in pairs]
    return {name: np.asarray(values, dtype=np.float64) for name, values in metrics.items()}

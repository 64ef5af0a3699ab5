"""Scores of evaluated questions.

A *result* is one object of the ``results`` list of an evaluation file. Its fields ``answer``, ``explanation``,
``generated_text`` and ``num_tokens`` are read here, and ``samples``, ``generated_tokens`` and ``token_logprobs`` if it
has them.

Four rules decide if an answer is right. A fifth number tells how much of it is right. ``RULES`` describes each in a
sentence.

    substring       any reference answer is a substring of the lower-cased output. This is the published rule. It finds
                    "no" in "abnormal", and an empty reference is never right.
    answer_overlap  the parsed answers share one with the reference, as in the training reward (``utils.answers``).
    answer_span     the same, but only the inside of ``<answer>`` counts. Without the tag nothing is right.
    exact_set       the parsed answers are the reference, no more and no less.
    answer_f1       2 |p & r| / (|p| + |r|) of the parsed answers p and the reference r; 1 if both are empty.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ReXKG.graph import Graph, set_scores
from ReXKG.scores import score_question
from utils.answers import (
    answer_span,
    answers_agree,
    has_think_answer_shape,
    in_form_of,
    is_letter_choice,
    normalise_answers,
    parse_answers,
    reasoning_of,
    think_text,
)
from utils.calibration import answer_confidence
from utils.get_knowledge_graph import extract_knowledge_graph
from utils.self_consistency import majority_answers, pass_at_k, pass_sizes

Result = Mapping[str, Any]
STORED_SCORES = (
    "scores_without_texts"  # field of a result without its texts (`tools.privacy`): its values by metric, null for NaN
)
ANSWER_KINDS = (str, int, float)  # true and false are whole numbers in Python


def contains_answer(text: str, reference: frozenset[str]) -> bool:
    """The published rule, ``substring``."""
    return any(answer in text.lower() for answer in reference)


ACCURACY_RULES: dict[str, Callable[[str, frozenset[str]], bool]] = {
    "substring": contains_answer,
    "answer_overlap": lambda text, reference: answers_agree(parse_answers(text), reference),
    "answer_span": lambda text, reference: (
        answer_span(text) is not None and answers_agree(parse_answers(text), reference)
    ),
    "exact_set": lambda text, reference: in_form_of(parse_answers(text), reference) == reference,
}
RULES = {
    "substring": "published rule: a reference answer occurs anywhere in the lower-cased text",
    "answer_overlap": "training reward: the parsed answers share one with the reference",
    "answer_span": "as answer_overlap, but only inside <answer>; without the tag wrong",
    "exact_set": "the parsed answers are the reference, no more and no less",
    "answer_f1": "F1 of the parsed answers and the reference, mean over questions",
}
PUBLISHED_RULE = "substring"
TRAINING_RULE = "answer_overlap"


def reference_answers(result: Result) -> frozenset[str]:
    """The right answers of a question: its ``answer`` (a text, a number, true or false, or a list of these), else those
    parsed from its ``explanation``. Raises ValueError if it has neither, or if ``answer`` is anything else."""
    answer, explanation = result.get("answer"), result.get("explanation")
    items = [answer] if isinstance(answer, ANSWER_KINDS) else answer
    if isinstance(items, Sequence) and all(isinstance(item, ANSWER_KINDS) for item in items):
        return normalise_answers(items)
    if answer is not None:
        raise ValueError(
            f"field 'answer' must be a text, a number, true, false or a list of them, it is {answer!r:.60}"
        )
    if not isinstance(explanation, str):
        raise ValueError("there is no 'answer' and no 'explanation' to score against; add the answer")
    return parse_answers(explanation)


def notes_of(results: Sequence[Result]) -> list[str]:
    """Sentences about figures of ``results`` that do not say what they seem to say. Empty if there are none."""
    letters = sum(is_letter_choice(reference_answers(result)) for result in results)
    unexplained = sum(reasoning_of(result.get("explanation") or None) is None for result in results)
    notes = []
    if letters:
        notes.append(
            f"{letters} of {len(results)} questions have a reference answer of one letter, which the published rule "
            f"({PUBLISHED_RULE}) finds in nearly every text; read another rule for them"
        )
    if unexplained == len(results):
        notes.append("no question has an explanation to compare with, so figures of the reasoning do not apply")
    elif unexplained:
        notes.append(
            f"figures of the reasoning count the {len(results) - unexplained} of {len(results)} questions that have an "
            "explanation to compare with"
        )
    return notes


def judge(text: str, reference: frozenset[str]) -> dict[str, bool]:
    """The verdict of each rule on an output: True if the output is right by that rule."""
    return {name: bool(rule(text, reference)) for name, rule in ACCURACY_RULES.items()}


def verdicts(result: Result, reference: frozenset[str]) -> Mapping[str, bool]:
    """The verdict of each rule on a result (`judge`), from its stored scores if its texts were taken out."""
    if scores := result.get(STORED_SCORES):
        return {name: bool(scores[name]) for name in ACCURACY_RULES}
    return judge(result["generated_text"], reference)


def reasoning_graphs(texts: Sequence[str]) -> list[Graph]:
    """The knowledge graph of each text's reasoning: its ``<think>`` part, or the whole text if there is none."""
    return extract_knowledge_graph([think_text(text) for text in texts])


def question_metrics(results: Sequence[Result]) -> dict[str, np.ndarray]:
    """One value per question, each array [N] float64.

    accuracy            0 or 1 by the training rule, ``answer_overlap``
    substring ... answer_f1   by each of the rules above
    length              number of generated tokens, the end token included
    format              1 if the text is one <think> span, then one <answer> span, and nothing else
    entity_*, relation_*, kg_*, hallucination, omission   scores of the two reasonings' graphs (``ReXKG.scores``), NaN
                        for a question whose ``explanation`` has no reasoning; left out if none has any
    pass@k, majority_vote     by the training rule, and by ``exact_set`` with the suffix ``_exact_set``, if every
                        question has ``samples``
    confidence, token_logprob the answer's confidence (``utils.calibration``) and the mean log-probability of the text's
                        tokens, if every question has log-probabilities of tokens

    Results whose texts were taken out keep their values. Raises ValueError if these are not numbers by every rule.
    """
    if any(STORED_SCORES in result for result in results):
        return _stored_metrics(results)
    texts = [result["generated_text"] for result in results]
    references = [reference_answers(result) for result in results]
    pairs = list(zip(texts, references, strict=True))
    right = {name: [rule(*pair) for pair in pairs] for name, rule in ACCURACY_RULES.items()}
    metrics: dict[str, Sequence[float]] = {
        "accuracy": right[TRAINING_RULE],
        **right,
        "answer_f1": [
            set_scores(in_form_of(parse_answers(text), reference), reference).f1 for text, reference in pairs
        ],
        "length": [result["num_tokens"] for result in results],
        "format": [has_think_answer_shape(text) for text in texts],
    }
    explained = [reasoning_of(result.get("explanation") or None) for result in results]
    if any(reasoning is not None for reasoning in explained):
        metrics |= _graph_metrics(texts, explained)
    if all(result.get("samples") for result in results):
        samples = [[sample["generated_text"] for sample in row["samples"]] for row in results]
        metrics |= _sample_metrics(samples, references)
    if all(result.get("token_logprobs") for result in results):
        metrics["confidence"] = [answer_confidence(row["generated_tokens"], row["token_logprobs"]) for row in results]
        metrics["token_logprob"] = [float(np.mean(row["token_logprobs"])) for row in results]
    return {name: np.asarray(values, dtype=np.float64) for name, values in metrics.items()}


def _stored_metrics(results: Sequence[Result]) -> dict[str, np.ndarray]:
    rows = [result.get(STORED_SCORES) for result in results]
    values = [value for row in rows for value in (row.values() if isinstance(row, Mapping) else ["no object"])]
    if not all(isinstance(value, float | int | None) for value in values):
        raise ValueError(f"field '{STORED_SCORES}' must hold numbers by metric, in every result or in none")
    shared = [name for name in rows[0] if all(name in row for row in rows)]
    if missing := {"accuracy", "length", *ACCURACY_RULES} - set(shared):
        raise ValueError(f"field '{STORED_SCORES}' has no {min(missing)}; make the copy again")
    return {name: np.array([row[name] for row in rows], dtype=np.float64) for name in shared}


def _graph_metrics(texts: Sequence[str], explained: Sequence[str | None]) -> dict[str, np.ndarray]:
    rows = [row for row, reasoning in enumerate(explained) if reasoning is not None]
    graphs = zip(
        reasoning_graphs([texts[row] for row in rows]), reasoning_graphs([explained[row] for row in rows]), strict=True
    )
    scores = [score_question(predicted, reference) for predicted, reference in graphs]
    columns = {name: np.full(len(texts), np.nan) for name in scores[0]}
    for name, column in columns.items():
        column[rows] = [score[name].value for score in scores]
    return columns


def _sample_metrics(samples: Sequence[Sequence[str]], references: Sequence[frozenset[str]]) -> dict[str, list[float]]:
    """pass@k and majority votes. ``samples`` holds the texts drawn for each question, equally many per question."""
    count = len(samples[0])
    votes = [majority_answers(texts) for texts in samples]
    metrics = {
        "majority_vote": [float(answers_agree(*pair)) for pair in zip(votes, references, strict=True)],
        "majority_vote_exact_set": [
            float(in_form_of(vote, truth) == truth) for vote, truth in zip(votes, references, strict=True)
        ],
    }
    for name, suffix in ((TRAINING_RULE, ""), ("exact_set", "_exact_set")):
        rule = ACCURACY_RULES[name]
        right = [sum(rule(text, truth) for text in texts) for texts, truth in zip(samples, references, strict=True)]
        for k in pass_sizes(count):
            metrics[f"pass@{k}{suffix}"] = [pass_at_k(count, good, k) for good in right]
    return metrics


def answer_scores(results: Sequence[Result]) -> dict[str, dict[str, float]]:
    """Precision, recall and F1 of each answer that a reference holds, over all questions, the most frequent first.

    The result is ``{answer: {"precision", "recall", "f1", "support", "predicted"}}``. An answer that was never
    predicted has precision 0.
    """
    predicted, support, hits = Counter(), Counter(), Counter()
    for result in results:
        truth = reference_answers(result)
        mine = in_form_of(parse_answers(result["generated_text"]), truth)
        predicted.update(mine)
        support.update(truth)
        hits.update(mine & truth)
    return {
        answer: {
            "precision": hits[answer] / predicted[answer] if predicted[answer] else 0.0,
            "recall": hits[answer] / count,
            "f1": 2 * hits[answer] / (predicted[answer] + count),
            "support": count,
            "predicted": predicted[answer],
        }
        for answer, count in sorted(support.items(), key=lambda item: (-item[1], item[0]))
    }

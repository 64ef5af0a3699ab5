"""Formulas of the rewards that are harder to game than the published ones; ``plugin.py`` registers them."""

from __future__ import annotations

from collections.abc import Set

from ReXKG.graph import set_scores
from utils.answers import has_think_answer_shape, in_form_of, parse_answers, parse_every_answer, think_span

# An answer that names both of a pair is a hedge, unless the reference names both.
CONTRADICTIONS = (frozenset({"yes", "no"}), frozenset({"m", "f"}), frozenset({"ap", "pa"}))


def answers_f1(predicted: Set[str], reference: Set[str]) -> float:
    """F1 of two sets of answers; 1.0 if both are empty.

    It is 0.0 if the prediction holds both answers of a contradictory pair and the reference does not. By F1 alone
    "yes, no" would be worth 2/3, which is more than a guess that is right half the time.
    """
    predicted = in_form_of(predicted, reference)
    if any(pair <= predicted and not pair <= reference for pair in CONTRADICTIONS):
        return 0.0
    return set_scores(set(predicted), set(reference)).f1


def strict_accuracy(completion: str, solution: str) -> float:
    """`answers_f1` of the answers in all ``<answer>`` spans of a completion against those of the solution."""
    return answers_f1(parse_every_answer(completion), parse_answers(solution))


def reasons_then_answers(text: str) -> bool:
    """True if the text is one ``<think>`` span that is not empty, then one ``<answer>`` span, and nothing else.

    The answer may be empty, because for some questions that is the right answer.
    """
    return has_think_answer_shape(text) and bool(think_span(text))


def soft_length_penalty(tokens: int, longest: int, cache: int) -> float:
    """0.0 up to ``longest - cache`` tokens, falling in a straight line to -1.0 at ``longest`` and beyond.

    Soft overlong punishment of DAPO (arXiv 2503.14476, equation 13).
    """
    return max(-1.0, min(0.0, (longest - cache - tokens) / cache))

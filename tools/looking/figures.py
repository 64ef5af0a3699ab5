"""Formulas of looking: one question answered with its image, and under a control with another image or a blank one.

Let r and c be 1 if the answer is right with the image and under the control, and 0 if it is wrong. Means are over
questions.

    changed                   share of questions whose parsed answers differ
    accuracy_with_image       mean r
    accuracy_without_image    mean c
    image_reliance            mean (r - c), the accuracy that the image brings
    right_only_with_image     mean r (1 - c)
    right_only_without_image  mean (1 - r) c

So image reliance is `right_only_with_image` minus `right_only_without_image`. All but `changed` depend on the rule of
accuracy. The figures follow "Beyond Accuracy" (arXiv 2603.03437).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from utils.answers import in_form_of, parse_answers
from utils.metrics import ACCURACY_RULES, TRAINING_RULE, reference_answers, verdicts

CHANGED = "changed"
RULE_FIGURES = (
    "accuracy_with_image",
    "accuracy_without_image",
    "image_reliance",
    "right_only_with_image",
    "right_only_without_image",
)
LOOKING_RULES = (TRAINING_RULE, *(rule for rule in ACCURACY_RULES if rule != TRAINING_RULE))
FigureName = tuple[str, str | None]  # figure, and the rule of accuracy behind it


def rule_figures(seen: np.ndarray, unseen: np.ndarray) -> dict[str, np.ndarray]:
    """The figures of each question by one rule, each [N].

    ``seen`` and ``unseen`` [N] are 1 if the answer with the image, and that under the control, is right, 0 if it is
    wrong, and NaN if there is none. A question without one of its answers is NaN in every figure.
    """
    return {
        "accuracy_with_image": seen + 0 * unseen,
        "accuracy_without_image": unseen + 0 * seen,
        "image_reliance": seen - unseen,
        "right_only_with_image": seen * (1 - unseen),
        "right_only_without_image": (1 - seen) * unseen,
    }


def looking_columns(
    with_image: Sequence[Mapping[str, Any]], without_image: Sequence[Mapping[str, Any] | None]
) -> dict[FigureName, np.ndarray]:
    """Every figure of each question, each [N] float64. NaN for a question without an answer under the control.

    ``with_image`` and ``without_image`` are results of the same questions in the same order. Answers are parsed by
    `utils.answers` and count as equal if they are equal in the form of the reference: "(A)" and "A" are one answer.
    """
    count = len(with_image)
    changed = np.full(count, np.nan)
    right = {rule: np.full((2, count), np.nan) for rule in LOOKING_RULES}
    for position, pair in enumerate(zip(with_image, without_image, strict=True)):
        if pair[1] is None:
            continue
        reference = reference_answers(pair[0])
        answers = [in_form_of(parse_answers(result["generated_text"]), reference) for result in pair]
        changed[position] = answers[0] != answers[1]
        for side, result in enumerate(pair):
            for rule, verdict in verdicts(result, reference).items():
                right[rule][side, position] = verdict
    columns: dict[FigureName, np.ndarray] = {(CHANGED, None): changed}
    for rule, (seen, unseen) in right.items():
        columns |= {(name, rule): column for name, column in rule_figures(seen, unseen).items()}
    return columns

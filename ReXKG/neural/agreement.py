"""Agreement of predictions with annotations: micro F1, and F1 by type."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ReXKG.graph import set_scores
from ReXKG.neural.mentions import Mention, Relation


def agreement(
    predicted: Sequence[Sequence[Mention | Relation]],
    gold: Sequence[Sequence[Mention | Relation]],
    labels: Sequence[str],
) -> dict[str, Any]:
    """Scores of predictions, sentence by sentence. A mention or relation is right if the annotation has an equal one,
    so a relation needs the right words and types at both ends ("Rel+" of PURE, arXiv 2010.12812).

    Returns:
        ``{"precision", "recall", "f1", "gold", "labels": {label: {the same four}}}``. ``gold`` is the number of
        annotated mentions or relations. Labels that neither side has are left out. See `ReXKG.graph.set_scores` for
        empty sets.
    """

    def scores(label: str | None) -> dict[str, Any]:
        guesses, truths = (
            {(number, item) for number, items in enumerate(side) for item in items if label in (None, item.label)}
            for side in (predicted, gold)
        )
        if label and not guesses and not truths:
            return {}
        return {**set_scores(guesses, truths)._asdict(), "gold": len(truths)}

    by_label = {label: scores(label) for label in labels}
    return scores(None) | {"labels": {label: values for label, values in by_label.items() if values}}


def format_agreement(title: str, scores: dict[str, Any]) -> str:
    """The scores as a small table."""
    lines = [f"{title:<22}{'F1':>7}{'precision':>11}{'recall':>8}{'annotated':>11}"]
    for name, row in {"all": scores, **scores["labels"]}.items():
        lines.append(f"  {name:<20}{row['f1']:>7.3f}{row['precision']:>11.3f}{row['recall']:>8.3f}{row['gold']:>11}")
    return "\n".join(lines)

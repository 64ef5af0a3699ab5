"""How well predictions agree with annotations: micro F1, and F1 by type."""

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
    """Scores of predictions, sentence by sentence: an item is right where an equal one is in the annotation, so a
    relation needs the right words and types at both ends (PURE's "Rel+").

    Returns:
        ``{"precision", "recall", "f1", "gold", "labels": {label: {the same four}}}``; ``gold`` counts annotated items,
        and labels that neither side has are left out. See `ReXKG.graph.set_scores` for empty sets.
    """

    def scores(label: str | None) -> dict[str, Any]:
        found, right = (
            {(number, item) for number, items in enumerate(side) for item in items if label in (None, item.label)}
            for side in (predicted, gold)
        )
        return {**set_scores(found, right)._asdict(), "gold": len(right)} if found or right or not label else {}

    by_label = {label: scores(label) for label in labels}
    return scores(None) | {"labels": {label: found for label, found in by_label.items() if found}}


def format_agreement(title: str, scores: dict[str, Any]) -> str:
    """The scores as a small table."""
    lines = [f"{title:<22}{'F1':>7}{'precision':>11}{'recall':>8}{'annotated':>11}"]
    for name, row in {"all": scores, **scores["labels"]}.items():
        lines.append(f"  {name:<20}{row['f1']:>7.3f}{row['precision']:>11.3f}{row['recall']:>8.3f}{row['gold']:>11}")
    return "\n".join(lines)

"""An audit as a table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tools.kg_audit.scores import AUDIT_GROUPINGS
from tools.reports.tables import align
from utils.questions import counted

EXAMPLES_SHOWN = 3
VALUES_SHOWN = 8  # kinds of question in a group; the JSON has all
FREQUENT_A_LINE = 4
_SCORES = {
    "entity_precision": "entity precision",
    "entity_recall": "entity recall",
    "entity_f1": "entity F1",
    "entity_jaccard": "entity Jaccard",
    "relation_precision": "relation precision",
    "relation_recall": "relation recall",
    "relation_f1": "relation F1",
    "relation_jaccard": "relation Jaccard",
    "kg_jaccard": "KG Jaccard",
    "hallucination": "hallucination",
    "hallucination_with_report": "  in no report either",
    "omission": "omission",
}
_SHOWN_OF_GROUPS = ("entity_f1", "kg_jaccard", "hallucination", "omission")


def audit_table(audit: Mapping[str, Any]) -> str:
    """The scores, those of each kind of question, and the facts that were invented and omitted most often.
    `tools.kg_audit.scores.audit` explains each number."""
    level = f"{audit['level']:.0%} interval"
    head = f"{counted(audit['questions'], 'question')} about {audit['clusters']}, mean [{level}]"
    if audit["with_report"]:
        head += f"; {audit['with_report']} with a report"
    scores = audit["scores"]
    rows = [["", "per question", "pooled"]]
    for name, label in _SCORES.items():
        if name in scores:
            pooled = scores[name].get("pooled")
            rows.append([label, f"{scores[name]['per_question']:.3f}", f"{pooled:.3f}" if pooled else ""])
    blocks = [head + "\n" + align(rows)]
    if audit["breakdown"]:
        blocks.append(_breakdown(audit["breakdown"]))
    lists = [
        ("hallucinated most: times, of times asserted (times the reference denies it)", audit["hallucinated"]),
        ("omitted most: times, of times the reference asserts it (times the answer denies it)", audit["omitted"]),
    ]
    blocks += [f"{title}\n{_frequent(rows)}" for title, rows in lists if rows]
    if audit["examples"]:
        blocks.append("for example\n" + "\n".join(map(_example, audit["examples"][:EXAMPLES_SHOWN])))
    return "\n\n".join(blocks)


def _breakdown(groups: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [["per question", "questions", *(_SCORES[name] for name in _SHOWN_OF_GROUPS)]]
    for field, values in groups.items():
        rows.append([AUDIT_GROUPINGS[field], "", *("" for _ in _SHOWN_OF_GROUPS)])
        for value, group in list(values.items())[:VALUES_SHOWN]:
            cells = [f"{group['scores'][name]['per_question']:.2f}" for name in _SHOWN_OF_GROUPS]
            rows.append([f"  {value}", str(group["questions"]), *cells])
        if len(values) > VALUES_SHOWN:
            rows.append([f"  and {len(values) - VALUES_SHOWN} more", "", *("" for _ in _SHOWN_OF_GROUPS)])
    return align(rows, gap=2)


def _frequent(rows: Sequence[Mapping[str, Any]]) -> str:
    """Entities in columns, a few per line."""
    cells = [
        f"{row['text']} {row['count']}/{row['of']}" + (f" ({row['denied']})" if row["denied"] else "") for row in rows
    ]
    lines = [cells[start : start + FREQUENT_A_LINE] for start in range(0, len(cells), FREQUENT_A_LINE)]
    return align([["", *line, *[""] * (FREQUENT_A_LINE - len(line))] for line in lines], gap=2)


def _example(row: Mapping[str, Any]) -> str:
    parts = [f"{verb} {', '.join(row[verb])}" for verb in ("hallucinated", "omitted") if row[verb]]
    return f"  {row['dataset']} {row['idx']}: {'; '.join(parts)}"

"""report.html: the numbers of evaluated runs, and every question with the answer of each run.

The page is `templates/report.{html,css,js}`. This module makes its data, short enough that 5,000 questions with token
probabilities stay below 30 MB: entity words are numbers into one list, probabilities are whole hundredths of nats, and
images shrink to the room that is left.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from ReXKG.graph import ASSERTED_TYPES, ENTITY_TYPES, RELATION_TYPES, Graph
from tools.looking.compute import Looking
from tools.looking.present import looking_page
from tools.reports.numbers import RULE_METRICS, Numbers, metric_direction, metric_label, metrics_document
from tools.reports.page import data_uri, encode_data, render_page
from tools.reports.result_files import GROUPINGS, EvaluatedRun
from tools.reports.thumbnails import image_addresses
from tools.reports.token_columns import token_columns
from utils.answers import answer_span, parse_answers
from utils.metrics import reasoning_graphs, reference_answers

PAGE_BYTES = 28_000_000
LEAST_IMAGE_BYTES = 4_000_000
ALTERNATIVES_BYTES = 8_000_000
QUESTION_KINDS = {  # names of entity types on the page; other types have none
    "disorder_present": "present",
    "disorder_notpresent": "absent",
    "devices_present": "device",
    "devices_notpresent": "no device",
}


def render_report(
    runs: Mapping[str, EvaluatedRun],
    numbers: Numbers,
    looking: Looking,
    labels: Mapping[str, str],
    title: str,
    *,
    curves: Path | None = None,
    embed_images: bool = False,
) -> str:
    """The page. ``labels`` are the runs' names for readers. ``curves`` is a PNG of training curves to show."""
    terms = _Terms()
    questions = _questions(runs, numbers, terms)
    paths = list(dict.fromkeys(path for question in questions for path in question["images"]))
    positions = {path: position for position, path in enumerate(paths)}
    for question in questions:
        question["images"] = [positions[path] for path in question["images"]]
    data = {
        "title": title,
        "date": date.today().isoformat(),
        **_tables(runs, numbers, labels),
        "looking": looking_page(looking, list(runs)),
        "rules": list(RULE_METRICS),
        "case_metrics": [metric_label(name) for name in _case_metrics(numbers)],
        "fields": [{"name": name, "label": text} for name, text in GROUPINGS.items()],
        "terms": terms.words,
        "entity_types": [
            {"name": name, "kind": QUESTION_KINDS.get(name), "claim": name in ASSERTED_TYPES} for name in ENTITY_TYPES
        ],
        "relation_types": RELATION_TYPES,
        "cases": questions,
        "curves": data_uri(curves.read_bytes(), "png") if curves else None,
    }
    room = max(LEAST_IMAGE_BYTES, PAGE_BYTES - len(encode_data(data).encode("utf-8")))
    data["images"] = image_addresses(paths, embed=embed_images, limit=room)
    files = any(not address.startswith("data:") for address in data["images"])
    return render_page("report", title, data, image_files=files)


def _tables(runs: Mapping[str, EvaluatedRun], numbers: Numbers, labels: Mapping[str, str]) -> dict[str, Any]:
    """The page's tables and plots."""
    document = metrics_document(runs, numbers)
    names = list(runs)
    return {
        **{name: document[name] for name in ("questions", "clusters", "notes", "extractor", "comparisons")},
        "baseline": names.index(numbers.baseline),
        "runs": [
            {
                "name": name,
                "label": labels[name],
                "metrics": document["runs"][name]["metrics"],
                "checkpoints": sorted({str(facts.get("checkpoint", "")) for facts in run.documents}),
                "controls": sorted({str(facts["control"]) for facts in run.documents if facts.get("control")}),
                "skipped": sum(int(facts.get("num_skipped", 0)) for facts in run.documents),
                "calibration": [
                    {"dataset": str(facts.get("dataset", "")), **facts["calibration"]}
                    for facts in run.documents
                    if isinstance(facts.get("calibration"), Mapping)
                ],
            }
            for name, run in runs.items()
        ],
        "metrics": [
            {"name": name, "label": metric_label(name), "direction": metric_direction(name)}
            for name in numbers.summary[numbers.baseline]
        ],
        "breakdown": {
            field: [
                {"name": row["name"], "count": row["count"], "runs": [_points(row["runs"][name]) for name in names]}
                for row in rows
            ]
            for field, rows in numbers.breakdown.items()
            if rows
        },
    }


def _points(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Intervals as [mean, low, high], which is shorter than three names."""
    return {
        name: value and [round(part, 4) for part in (value.mean, value.lo, value.hi)] for name, value in metrics.items()
    }


def _questions(runs: Mapping[str, EvaluatedRun], numbers: Numbers, terms: _Terms) -> list[dict[str, Any]]:
    """Every question, the answers of the runs, and the facts of each."""
    results = runs[numbers.baseline].results
    explanations = [result.get("explanation") or "" for result in results]
    references = [terms.facts(graph) for graph in reasoning_graphs(explanations)]
    shown = _case_metrics(numbers)
    columns = [_answers(run, shown, terms) for run in runs.values()]
    return [
        {
            "id": str(result.get("id", position)),
            "question": str(result["question"]),
            "answer": sorted(reference_answers(result)),
            "reference": explanation,
            "facts": facts,
            "images": [str(path) for path in result.get("image_paths") or [] if path is not None],
            "kinds": [None if result.get(field) is None else str(result[field]) for field in GROUPINGS],
            "runs": [column[position] for column in columns],
        }
        for position, (result, explanation, facts) in enumerate(zip(results, explanations, references, strict=True))
    ]


def _case_metrics(numbers: Numbers) -> list[str]:
    """Metrics that a question shows as numbers. Accuracy has signs of its own."""
    return [name for name in numbers.summary[numbers.baseline] if name not in RULE_METRICS.values()]


def _answers(run: EvaluatedRun, shown: Sequence[str], terms: _Terms) -> list[dict[str, Any]]:
    """A run's answer to each question: its text, the rules that find it right, its facts, its tokens."""
    texts = [result["generated_text"] for result in run.results]
    rules = [run.metrics[metric] for metric in RULE_METRICS.values()]
    room = ALTERNATIVES_BYTES
    answers = []
    for position, (text, graph) in enumerate(zip(texts, reasoning_graphs(texts), strict=True)):
        tokens = _tokens(run.results[position])
        room -= len(encode_data(tokens.get("others", {}))) if tokens else 0
        if tokens and room < 0:
            tokens.pop("others", None)
        answers.append(
            {
                "text": text,
                "answer": sorted(parse_answers(text)),
                "tagged": answer_span(text) is not None,
                "right": sum(1 << bit for bit, values in enumerate(rules) if values[position] > 0),
                "facts": terms.facts(graph),
                "metrics": [_short(run.metrics[name][position]) for name in shown],
                **({"tokens": tokens} if tokens else {}),
            }
        )
    return answers


def _tokens(result: Mapping[str, Any]) -> dict[str, Any] | None:
    """A result's tokens and their probabilities, if evaluate_token_prob.py wrote them."""
    columns = (result.get(f"token_{name}") for name in ("logprobs", "entropies", "ranks", "alternatives"))
    return token_columns(result["generated_text"], result.get("generated_tokens"), *columns)


def _short(value: float) -> float | None:
    return round(float(value), 3) if math.isfinite(value) else None


class _Terms:
    """Graphs as numbers: words become positions in one list, types positions in ReXKG's."""

    def __init__(self):
        self.words: list[str] = []
        self._positions: dict[str, int] = {}

    def facts(self, graph: Graph) -> list[list[int]]:
        """The graph as ``[[word, type, ...], [source, target, type, ...]]``, flat."""
        entities = ((self._of(text), ENTITY_TYPES.index(kind)) for text, kind in sorted(graph["entities"].items()))
        triples = sorted({(r["source_entity"], r["target_entity"], r["type"]) for r in graph["relations"]})
        relations = ((self._of(s), self._of(t), RELATION_TYPES.index(kind)) for s, t, kind in triples)
        return [_flat(entities), _flat(relations)]

    def _of(self, word: str) -> int:
        position = self._positions.setdefault(word, len(self.words))
        if position == len(self.words):
            self.words.append(word)
        return position


def _flat(rows: Iterable[Sequence[int]]) -> list[int]:
    return [value for row in rows for value in row]

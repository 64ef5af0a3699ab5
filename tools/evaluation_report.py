"""report.html: one file that shows the table, the plots and a sample of cases, and asks nothing of the network.

The page is `templates/report.{html,css,js}`; here its data is put together. Radiographs are embedded when they come
from the demo world or when asked for, so that no credentialed image slips into a file that is passed on; otherwise the
page points at their files.
"""

from __future__ import annotations

import base64
import io
import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from ReXKG.graph import Graph, entity_pairs
from swift.llm.images import ImageSource, open_image
from swift.utils.errors import UserError
from tools.result_files import GROUPINGS, Run, group_rows
from utils.answers import answer_span, think_text
from utils.metrics import reasoning_graphs, reference_answers
from utils.statistics import Interval, mean_interval, patients

TEMPLATES = Path(__file__).parent / "templates"
THUMBNAIL = 320  # pixels of the longer side
OUTCOMES = {  # (SFT right, GRPO right)
    (False, True): "fixed",
    (True, False): "broke",
    (False, False): "both_wrong",
    (True, True): "both_right",
}


def render_report(
    runs: Mapping[str, Run],
    summary: Mapping[str, Mapping[str, Interval]],
    title: str,
    extractor: str,
    curves: Path | None = None,
    cases: int = 60,
    embed_images: bool = False,
) -> str:
    """The page. ``runs`` holds ``sft``, ``grpo`` and perhaps ``blind``; ``summary`` is what the table shows."""
    results = runs["sft"].results
    outcomes = [
        OUTCOMES[pair] for pair in zip(*(runs[name].metrics["accuracy"] > 0 for name in ("sft", "grpo")), strict=True)
    ]
    chosen = choose_cases(outcomes, cases)
    images = _Images(embed_images)
    data = {
        "title": title,
        "date": date.today().isoformat(),
        "questions": len(results),
        "patients": len(set(patients(results))),
        "extractor": extractor,
        "checkpoints": {
            name: sorted({str(d.get("checkpoint", "")) for d in run.documents}) for name, run in runs.items()
        },
        "summary": {name: {metric: value.as_dict() for metric, value in row.items()} for name, row in summary.items()},
        "breakdown": {label: breakdown(runs, field) for field, label in GROUPINGS.items()},
        "outcomes": {name: outcomes.count(name) for name in OUTCOMES.values()},
        "cases": _cases(runs, chosen, outcomes, images),
        "curves": _data_uri(curves.read_bytes(), "png") if curves else None,
        "images": images.uris,
    }
    return fill_template(data)


def fill_template(data: Mapping[str, Any]) -> str:
    """The template with style, script and data in it; data cannot close its element."""
    parts = {name: (TEMPLATES / f"report.{name}").read_text(encoding="utf-8") for name in ("html", "css", "js")}
    encoded = json.dumps(data, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
    page = parts.pop("html")
    for name, text in {**parts, "json": encoded}.items():
        before, _, after = page.partition(f"/* report.{name} */")
        page = before + text + after
    return page


def choose_cases(outcomes: Sequence[str], count: int, seed: int = 0) -> list[int]:
    """Up to ``count`` positions in ascending order, drawn at random and as evenly over the outcomes as they allow."""
    pools = defaultdict(list)
    for position in np.random.default_rng(seed).permutation(len(outcomes)).tolist():
        pools[outcomes[position]].append(position)
    rounds = sorted((turn, position) for pool in pools.values() for turn, position in enumerate(pool))
    return sorted(position for _, position in rounds[:count])


def breakdown(runs: Mapping[str, Run], field: str) -> list[dict[str, Any]]:
    """Accuracy of each run for each value of ``field``, the most frequent first; empty where no result has it."""
    results = next(iter(runs.values())).results
    clusters = np.array(patients(results))
    return [
        {"name": name, "count": len(rows)}
        | {key: mean_interval(run.metrics["accuracy"][rows], clusters[rows]).as_dict() for key, run in runs.items()}
        for name, rows in group_rows(results, field).items()
    ]


def compare_entities(predicted: Graph, reference: Graph) -> dict[str, list[list[str]]]:
    """[text, type] pairs in three lists: ``matched``, ``missing`` from the prediction, ``extra`` in it."""
    mine, truth = entity_pairs(predicted), entity_pairs(reference)
    lists = {"matched": mine & truth, "missing": truth - mine, "extra": mine - truth}
    return {name: [list(pair) for pair in sorted(pairs)] for name, pairs in lists.items()}


def mark_entities(text: str, marks: Mapping[str, str]) -> list[list[str | None]]:
    """``text`` cut into [piece, mark] pairs: each whole-word occurrence of a key of ``marks``, in any case, carries its
    mark, everything else None. Longer keys win. Joined, the pieces are ``text``."""
    if not marks:
        return [[text, None]] if text else []
    words = "|".join(re.escape(key) for key in sorted(marks, key=len, reverse=True))
    pieces, end = [], 0
    for match in re.finditer(rf"(?<!\w)(?:{words})(?!\w)", text, re.IGNORECASE):
        pieces += [[text[end : match.start()], None], [match[0], marks[match[0].lower()]]]
        end = match.end()
    return [piece for piece in [*pieces, [text[end:], None]] if piece[0]]


def _cases(runs: Mapping[str, Run], chosen: Sequence[int], outcomes: Sequence[str], images: _Images) -> list[dict]:
    """What the page shows of the chosen questions."""
    sft = [runs["sft"].results[position] for position in chosen]
    references = reasoning_graphs([result.get("explanation") or "" for result in sft])
    columns = {}
    for name in ("sft", "grpo"):
        graphs = reasoning_graphs([runs[name].results[position]["generated_text"] for position in chosen])
        columns[name] = [
            _completion(runs[name], position, graph, reference)
            for position, graph, reference in zip(chosen, graphs, references, strict=True)
        ]
    return [
        {
            "id": str(result.get("id", position)),
            "dataset": result["dataset"],
            "outcome": outcomes[position],
            "types": [str(result[field]) for field in list(GROUPINGS)[1:] if result.get(field)],
            "question": result["question"],
            "answer": sorted(reference_answers(result)),
            "reference": _marked(result.get("explanation") or "", dict.fromkeys(graph["entities"], "known")),
            "images": [images.key(path) for path in result.get("image_paths", [])],
            "sft": columns["sft"][row],
            "grpo": columns["grpo"][row],
        }
        for row, (position, result, graph) in enumerate(zip(chosen, sft, references, strict=True))
    ]


def _completion(run: Run, position: int, graph: Graph, reference: Graph) -> dict[str, Any]:
    entities = compare_entities(graph, reference)
    marks = {text: name for name in ("matched", "extra") for text, _ in entities[name]}
    text = run.results[position]["generated_text"]
    return {
        "right": bool(run.metrics["accuracy"][position]),
        "text": _marked(text, marks),
        "answer": answer_span(text),
        "entities": entities,
        "kg_jaccard": float(run.metrics["kg_jaccard"][position]) if "kg_jaccard" in run.metrics else None,
    }


def _marked(text: str, marks: Mapping[str, str]) -> list[list[str | None]]:
    return mark_entities(think_text(text), marks)


class _Images:
    """Sources for the page's <img> elements, each image once."""

    def __init__(self, embed: bool):
        self.embed = embed
        self.uris: dict[str, str] = {}
        self._keys: dict[str, str] = {}

    def key(self, path: str) -> str:
        """The image's name on the page."""
        if path not in self._keys:
            self._keys[path] = f"image{len(self._keys)}"
            self.uris[self._keys[path]] = self._uri(Path(path))
        return self._keys[path]

    def _uri(self, path: Path) -> str:
        if self.embed or is_drawn(path):
            return _thumbnail(path)
        return path.absolute().as_uri()


def is_drawn(path: Path) -> bool:
    """Whether the image belongs to a demo world: the manifest of one lies beside its folder."""
    try:
        manifest = json.loads((path.parent.parent / "manifest.json").read_text(encoding="utf-8"))
        return {"arguments", "counts", "sha256"} <= manifest.keys() and path.name.startswith("demo-")
    except (OSError, ValueError, AttributeError):
        return False


def _thumbnail(path: Path) -> str:
    try:
        image = open_image(ImageSource.from_path(path)).convert("L")
    except UserError as error:
        raise UserError(f"{error}, or run without --embed_images") from error
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=75, optimize=True)
    return _data_uri(buffer.getvalue(), "jpeg")


def _data_uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"

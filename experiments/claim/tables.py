"""Result tables: what was measured on every question of a run, in files small enough for git.

    results/questions.csv.gz    a row per question: world, question, patient, file, types, images, yes or no
    results/<tag>.csv.gz        a row per condition and question of one run; its first line is the run's record as JSON
    results/runs.json           the records of all runs

No texts are in them. Numbers have six digits, and an empty cell means that a figure does not apply. The same
measurement gives the same bytes.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from swift.utils.errors import UserError
from swift.utils.files import replacing, write_json

HOME, SHIFTED = "home", "shifted"
# Conditions by the world whose questions are asked.
CONDITIONS = {HOME: HOME, "blank": HOME, "shuffled": HOME, "sampled": HOME, SHIFTED: SHIFTED}
ANSWERED = (
    "substring", "answer_overlap", "answer_span", "exact_set", "answer_f1", "format", "length", "entity_precision",
    "entity_recall", "kg_jaccard", "kg_f1", "hallucination", "omission",
)  # fmt: skip
JUDGED = ("true", "false", "asserted", "invented", "unjudged", "sound")  # by the drawn truth
SAMPLED = ("samples", "right", "right_exact")  # answers drawn, and how many are right by the training rule and exactly
COLUMNS = (*ANSWERED, *JUDGED, *SAMPLED)


@dataclass(frozen=True)
class AskedQuestion:
    """A question of one of the worlds. ``question`` is its name in its file. ``answer`` is yes, no, or empty for any
    other."""

    world: str
    question: str
    patient: str
    file: str
    question_type: str
    semantic_type: str
    images: str
    answer: str


@dataclass(frozen=True)
class AskedQuestions:
    """The questions of one world, in the order of the files."""

    rows: tuple[AskedQuestion, ...]

    @cached_property
    def places(self) -> dict[str, int]:
        """The position of each question."""
        return {row.question: place for place, row in enumerate(self.rows)}

    @cached_property
    def patients(self) -> np.ndarray:
        """The number of each question's patient, [questions]."""
        numbers: dict[str, int] = {}
        return np.array([numbers.setdefault(row.patient, len(numbers)) for row in self.rows], dtype=int)

    def where(self, **values: str) -> np.ndarray:
        """True for the questions whose fields have these values, [questions]."""
        return np.array([all(getattr(row, name) == value for name, value in values.items()) for row in self.rows])


@dataclass(frozen=True)
class RunTable:
    """The record of a run, and its figures by condition and column, each [questions of the world] with NaN for none."""

    record: Mapping[str, Any]
    values: Mapping[str, Mapping[str, np.ndarray]]


QuestionsByWorld = Mapping[str, AskedQuestions]
TablesByTag = Mapping[str, RunTable]


def write_asked_questions(folder: Path, rows: Sequence[AskedQuestion]) -> None:
    """Write the questions. Raises UserError if the folder has results of other questions."""
    path = folder / "questions.csv.gz"
    text = _to_csv([field.name for field in fields(AskedQuestion)], (asdict(row).values() for row in rows))
    if path.exists() and _read_text(path) != text:
        raise UserError(
            f"{path} holds other questions than the worlds of the plan; remove {folder}, or restore the plan"
        )
    _write_text(path, text)


def read_asked_questions(folder: Path) -> QuestionsByWorld:
    """The questions by world. Raises UserError if there are none."""
    path = folder / "questions.csv.gz"
    rows = [AskedQuestion(**row) for row in csv.DictReader(io.StringIO(_read_text(path)))]
    return {world: AskedQuestions(tuple(row for row in rows if row.world == world)) for world in (HOME, SHIFTED)}


def write_run_table(
    folder: Path, record: Mapping[str, Any], rows: Iterable[tuple[str, str, Mapping[str, float]]]
) -> None:
    """Write the table of a run. ``rows`` are condition, question, and the figures that apply."""
    lines = ([condition, question, *(_shown(row.get(name)) for name in COLUMNS)] for condition, question, row in rows)
    text = f"# {json.dumps(record, sort_keys=True)}\n" + _to_csv(("condition", "question", *COLUMNS), lines)
    _write_text(run_path(folder, record["tag"]), text)


def read_run_table(folder: Path, tag: str, questions: QuestionsByWorld) -> RunTable | None:
    """The table of a run; None if it was not measured. Raises UserError if it has a question that is not listed."""
    path = run_path(folder, tag)
    if not path.exists():
        return None
    head, _, text = _read_text(path).partition("\n")
    values = {
        condition: {name: np.full(len(questions[world].rows), math.nan) for name in COLUMNS}
        for condition, world in CONDITIONS.items()
    }
    for row in csv.DictReader(io.StringIO(text)):
        condition = row["condition"]
        place = questions[CONDITIONS[condition]].places.get(row["question"])
        if place is None:
            raise UserError(f"{path}: question {row['question']} is not in questions.csv.gz; measure the run again")
        for name in COLUMNS:
            if row[name]:
                values[condition][name][place] = float(row[name])
    return RunTable(json.loads(head.removeprefix("# ")), values)


def run_path(folder: Path, tag: str) -> Path:
    """The file of a run's table."""
    return folder / f"{tag}.csv.gz"


def write_records(folder: Path, tags: Iterable[str]) -> int:
    """Write runs.json from the tables of the measured ones among ``tags``, and return their number."""
    paths = [path for path in (run_path(folder, tag) for tag in tags) if path.exists()]
    records = [json.loads(_read_text(path).partition("\n")[0].removeprefix("# ")) for path in paths]
    write_json(folder / "runs.json", records)
    return len(records)


def _shown(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.6g}"


def _to_csv(head: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows([head, *lines])
    return stream.getvalue()


def _read_text(path: Path) -> str:
    try:
        return gzip.decompress(path.read_bytes()).decode("utf-8")
    except (OSError, EOFError) as error:
        raise UserError(f"{path} cannot be read ({error}); restore it from git, or measure the runs") from error


def _write_text(path: Path, text: str) -> None:
    """Write a compressed file without its time and name, so that equal texts are equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_bytes(gzip.compress(text.encode("utf-8"), mtime=0))

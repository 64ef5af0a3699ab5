"""Outcomes: the figures that runs are compared by, each a ratio of sums over questions of the result tables.

Accuracy is that of the training reward (`answer_overlap`) unless another rule is named. The drawn truth is that of the
question's own image, under controls too, and is known for questions about one image. "Looking" is the accuracy that an
image brings: with it, less under a control on the same questions. "Yes where right" is the accuracy on questions about
one image whose answer is yes. "Gap to pass@8" is the share of questions that some of eight samples get right, less that
of the greedy answer: reinforcement that only sharpens closes it from below.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from experiments.claim.bootstrap import CellSums
from experiments.claim.tables import CONDITIONS, HOME, SHIFTED, QuestionsByWorld, RunTable

Figure = tuple[str, str]  # condition and column of a table
PASS = "pass"  # a column that is derived: some sample is right


@dataclass(frozen=True)
class Outcome:
    """One outcome.

    Attributes:
        label: its name in tables.
        top: the figure that is summed.
        bottom: the figure that it is divided by; None for the number of questions that have ``top``.
        less: a figure of the same questions that is subtracted from ``top``.
        better: 1 if more is better, -1 if less is, 0 if neither.
        only: the values of fields of the questions that count; empty for all questions.
    """

    label: str
    top: Figure
    bottom: Figure | None = None
    less: Figure | None = None
    better: int = 1
    only: Mapping[str, str] = field(default_factory=dict)

    @property
    def world(self) -> str:
        """The world whose questions are asked."""
        return CONDITIONS[self.top[0]]


_ACCURACY = "answer_overlap"
OUTCOMES = {
    "accuracy": Outcome("accuracy", (HOME, _ACCURACY)),
    "sound": Outcome("sound reasoning", (HOME, "sound")),
    "accuracy_basic": Outcome("accuracy, basic", (HOME, _ACCURACY), only={"file": "basic"}),
    "accuracy_region": Outcome("accuracy, region", (HOME, _ACCURACY), only={"file": "region"}),
    "accuracy_compare": Outcome("accuracy, comparison", (HOME, _ACCURACY), only={"file": "compare"}),
    "accuracy_yes": Outcome("yes where right", (HOME, _ACCURACY), only={"answer": "yes", "images": "1"}),
    "accuracy_no": Outcome("no where right", (HOME, _ACCURACY), only={"answer": "no", "images": "1"}),
    "substring": Outcome("accuracy, published rule", (HOME, "substring")),
    "answer_span": Outcome("accuracy, tagged", (HOME, "answer_span")),
    "exact_set": Outcome("accuracy, exact", (HOME, "exact_set")),
    "answer_f1": Outcome("answer F1", (HOME, "answer_f1")),
    "truth": Outcome("true claims", (HOME, "true"), bottom=(HOME, "judged")),
    "invented": Outcome("invented findings", (HOME, "invented"), bottom=(HOME, "asserted"), better=-1),
    "entity_precision": Outcome("KG precision", (HOME, "entity_precision")),
    "entity_recall": Outcome("KG recall", (HOME, "entity_recall")),
    "kg_jaccard": Outcome("KG Jaccard", (HOME, "kg_jaccard")),
    "hallucination": Outcome("KG hallucination", (HOME, "hallucination"), better=-1),
    "omission": Outcome("KG omission", (HOME, "omission"), better=-1),
    "format": Outcome("well-formed", (HOME, "format")),
    "length": Outcome("length (tokens)", (HOME, "length"), better=0),
    "claims": Outcome("claims per reasoning", (HOME, "judged"), better=0),
    "unjudged": Outcome("unjudged statements per reasoning", (HOME, "unjudged"), better=0),
    "looking_blank": Outcome("looking, against blank", (HOME, _ACCURACY), less=("blank", _ACCURACY)),
    "looking_shuffled": Outcome("looking, against shuffled", (HOME, _ACCURACY), less=("shuffled", _ACCURACY)),
    "pass": Outcome("pass@8", ("sampled", PASS)),
    "sampled": Outcome("mean of samples", ("sampled", "right"), bottom=("sampled", "samples")),
    "gap": Outcome("gap to pass@8", ("sampled", PASS), less=(HOME, _ACCURACY), better=0),
    "shifted_accuracy": Outcome("accuracy, shifted world", (SHIFTED, _ACCURACY)),
    "shifted_sound": Outcome("sound reasoning, shifted world", (SHIFTED, "sound")),
}


def values_of(table: RunTable, outcome: Outcome) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Numerators, denominators, and if the outcome was measured, each [questions of its world]."""
    top = _column(table, outcome.top)
    if outcome.less is not None:
        top = top - _column(table, outcome.less)
    bottom = np.ones_like(top) if outcome.bottom is None else _column(table, outcome.bottom)
    measured = np.isfinite(top) & np.isfinite(bottom)
    return np.where(measured, top, 0.0), np.where(measured, bottom, 0.0), measured


def _column(table: RunTable, place: Figure) -> np.ndarray:
    condition, name = place
    columns = table.values[condition]
    if name == PASS:
        right = columns["right"]
        return np.where(np.isnan(right), math.nan, right > 0)
    if name == "judged":
        return columns["true"] + columns["false"]
    return columns[name]


def cell_sums(tables: Sequence[RunTable], outcome: Outcome, questions: QuestionsByWorld) -> CellSums:
    """An outcome of the runs of one cell, summed by patient: [runs, patients]. Patients without a question that has the
    outcome are left out. They are the same in all runs."""
    asked = questions[outcome.world]
    chosen = asked.where(**outcome.only)
    sums = []
    for table in tables:
        parts = values_of(table, outcome)
        sums.append([np.bincount(asked.patients[chosen], weights=part[chosen]) for part in parts])
    tops, bottoms, measured = (np.stack(parts) for parts in zip(*sums, strict=True))
    there = measured.any(axis=0)
    return CellSums(tops[:, there], bottoms[:, there])

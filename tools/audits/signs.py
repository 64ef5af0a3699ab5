"""Signs of gaming in the completions of a training run, and the reward of completions with and without each sign."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ReXKG.finding_scores import WRONG_POLARITY, WRONG_SIDE, contradictions, credit
from ReXKG.findings import FindingReader, TextFindings
from ReXKG.graph import Graph, empty_unions
from tools.reports.training_log import CompletionRow, total_reward
from utils.answers import parse_answers, think_span, think_text
from utils.consistency import consistency, restates
from utils.intervals import Interval, mean_interval
from utils.strict_rewards import CONTRADICTIONS

MANY = 6  # findings in one reasoning: more than an answer needs
SHORT = 3  # words
_CONTROL = re.compile(r"<\|[^|>]*\|>|<image>|<\|im_(?:start|end)\|>")
_ROLE = re.compile(r"^\s*(?:user|assistant|system)\s*(?:\n|$)")


@dataclass(frozen=True)
class SignTable:
    """Signs in N completions.

    Attributes:
        present: bool [N] by sign.
        totals: the weighted reward of each completion, float [N].
        steps: the step of each completion, int [N].
        groups: the group of each completion, N texts. Intervals draw whole groups.
    """

    present: dict[str, np.ndarray]
    totals: np.ndarray
    steps: np.ndarray
    groups: list[str]

    def __post_init__(self) -> None:
        counts = {len(self.totals), len(self.steps), len(self.groups), *map(len, self.present.values())}
        if len(counts) != 1:
            raise ValueError(f"fields of lengths {sorted(counts)} for one list of completions")

    def share(self, sign: str, rows: np.ndarray) -> Interval | None:
        """The share of the completions ``rows`` that have the sign."""
        return self._mean(self.present[sign], rows)

    def reward(self, sign: str, has: bool) -> Interval | None:
        """The mean reward of the completions that have the sign, or of those that do not; None if there are none."""
        return self._mean(self.totals, np.flatnonzero(self.present[sign] == has))

    def _mean(self, values: np.ndarray, rows: np.ndarray) -> Interval | None:
        return mean_interval(values[rows], [self.groups[row] for row in rows]) if len(rows) else None


def question_of(prompt: str) -> str:
    """The last text of a prompt between control tokens that is not a role's name."""
    parts = [_ROLE.sub("", part).strip() for part in _CONTROL.split(prompt)]
    return next((part for part in reversed(parts) if part), "")


def find_signs(
    rows: Sequence[CompletionRow],
    weights: dict[str, float],
    reader: FindingReader,
    extract: Callable[[list[str]], list[Graph]],
) -> SignTable:
    """The signs in the rows of completions.jsonl."""
    texts = [row["completion"] for row in rows]
    questions = [question_of(row.get("prompt") or "") for row in rows]
    reasonings = [think_span(text) or "" for text in texts]
    references = [think_text(row.get("solution") or "") for row in rows]
    own, truth = reader(reasonings), reader(references)
    graphs = zip(extract([think_text(text) for text in texts]), extract(references), strict=True)
    signs: dict[str, list[Any]] = {
        "empty reasoning": [len(text.split()) < SHORT for text in reasonings],
        "question restated": [restates(*pair) for pair in zip(questions, reasonings, strict=True)],
        "contradicts itself": [contradictions(reading.findings) > 0 for reading in own],
        "opposes its answer": [value < 0 for value in consistency(texts, questions, reader)],
        "answer hedged": [any(pair <= parse_answers(text) for pair in CONTRADICTIONS) for text in texts],
        "statement repeated": [len(set(reading.statements)) < len(reading.statements) for reading in own],
        "many findings": [len(reading.findings) >= MANY for reading in own],
        "wrong polarity": [_worst_credit(*pair) == WRONG_POLARITY for pair in zip(own, truth, strict=True)],
        "wrong side": [_worst_credit(*pair) == WRONG_SIDE for pair in zip(own, truth, strict=True)],
        "nothing read": [len(text.split()) >= SHORT and not reading.findings
                         for text, reading in zip(reasonings, own, strict=True)],
        "graphs empty on both sides": [empty_unions(*pair) > 0 for pair in graphs],
    }  # fmt: skip
    return SignTable(
        {name: np.array(values, dtype=bool) for name, values in signs.items()},
        np.array([total_reward(row, weights) for row in rows]),
        np.array([row["step"] for row in rows]),
        [str(row.get("group", row.get("prompt"))) for row in rows],
    )


def _worst_credit(own: TextFindings, truth: TextFindings) -> float:
    """The lowest credit of a finding against what it fits best in the reference, 0.0 if none is negative."""
    fits = ([credit(finding, other) for other in truth.findings] for finding in own.findings)
    best = (max((value for value in values if value is not None), default=0.0) for values in fits)
    return min(best, default=0.0)

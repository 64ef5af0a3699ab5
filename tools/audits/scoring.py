"""Scores of attacks by sets of rewards, and the table of their means and successes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from swift.plugin.rewards import reward_matrix
from tools.audits.attacks import ATTACK_NAMES, PARAPHRASE, TRUTH, Attacks, AuditRecord
from utils.intervals import Interval, mean_interval, ratio_intervals
from utils.questions import patients

EQUAL = 1e-6  # rewards that differ by no more are equal up to float32 rounding
WORST_SHOWN = 8

Reward = tuple[str, Callable]


@dataclass(frozen=True)
class Scored:
    """Attacks on N records, K completions in all.

    Attributes:
        positions: record of each completion, int [K].
        names: attack of each completion, K texts.
        texts: the completions.
        rewards: float [K, R], NaN if a reward does not apply.
        columns: the columns of the table: name and the rewards whose sum it shows.
    """

    positions: np.ndarray
    names: list[str]
    texts: list[str]
    rewards: np.ndarray
    columns: dict[str, list[int]]

    def __post_init__(self) -> None:
        counts = {len(self.positions), len(self.names), len(self.texts), len(self.rewards)}
        if len(counts) != 1:
            raise ValueError(f"fields of lengths {sorted(counts)} for one list of completions")

    def values(self, column: str) -> np.ndarray:
        """The sum of the column's rewards, float [K]. One that does not apply adds nothing, as in training."""
        return np.nansum(self.rewards[:, self.columns[column]], axis=1)

    def truth(self, column: str) -> np.ndarray:
        """The reward of the truth of each completion's record, float [K]."""
        values = self.values(column)
        own = {self.positions[k]: values[k] for k, name in enumerate(self.names) if name == TRUTH}
        return np.array([own[position] for position in self.positions])


@dataclass(frozen=True)
class AttackCell:
    """One attack under one column.

    Attributes:
        mean: mean reward.
        success: share of records in which the attack earns at least as much as the truth; for the paraphrase the share
            of the truth's reward that it keeps.
    """

    mean: Interval
    success: Interval


def score_attacks(
    records: Sequence[AuditRecord], attacks: Attacks, rewards: Sequence[Reward], sets: Sequence[Sequence[str]]
) -> Scored:
    """Score all attacks on all records. ``sets`` name rewards whose sums are columns beside those of each reward."""
    rows = [
        (position, name, text)
        for position in range(len(records))
        for name, texts in attacks.completions(position).items()
        for text in texts
    ]
    texts = [text for *_, text in rows]
    positions = np.array([position for position, *_ in rows])
    matrix = reward_matrix(list(rewards), texts, _columns(records, positions))
    order = [name for name, _ in rewards]
    columns = {" + ".join(names): [order.index(name) for name in names] for names in sets if len(names) > 1}
    columns |= {name: [place] for place, name in enumerate(order)}
    return Scored(positions, [name for _, name, _ in rows], texts, matrix, columns)


def _columns(records: Sequence[AuditRecord], positions: np.ndarray) -> dict[str, list[Any]]:
    """The fields of the records as columns for the rewards, aligned with the completions."""
    left_out = {"messages", "images", "image"}
    names = {name for record in records for name in record.item} - left_out
    rows = [record.item | {"question": record.question, "solution": record.solution} for record in records]
    names |= {"question", "solution"}
    columns = {name: [rows[position].get(name) for position in positions] for name in sorted(names)}
    return columns | {"completion_tokens": [0] * len(positions)}


def table_of(scored: Scored, records: Sequence[AuditRecord]) -> dict[str, dict[str, AttackCell]]:
    """The cells by attack and column, with 95% intervals that draw whole patients."""
    clusters = patients([record.item for record in records])
    table: dict[str, dict[str, AttackCell]] = {}
    for attack in ATTACK_NAMES:
        rows = [k for k, name in enumerate(scored.names) if name == attack]
        if not rows:
            continue
        own = [clusters[scored.positions[k]] for k in rows]
        table[attack] = {
            column: _cell(attack, scored.values(column)[rows], scored.truth(column)[rows], own)
            for column in scored.columns
        }
    return table


def _cell(attack: str, values: np.ndarray, truth: np.ndarray, clusters: Sequence[str]) -> AttackCell:
    mean = mean_interval(values, clusters)
    if attack == PARAPHRASE:
        (kept,) = ratio_intervals(values[:, None], truth[:, None], clusters)
        return AttackCell(mean, kept or Interval(1.0, 1.0, 1.0))
    return AttackCell(mean, mean_interval(values >= truth - EQUAL, clusters))


def worst_cases(scored: Scored, attack: str, column: str, count: int = WORST_SHOWN) -> list[int]:
    """The completions of an attack that earn most compared with the truth of their record, the worst first. For the
    paraphrase, those that lose most."""
    gain = scored.values(column) - scored.truth(column)
    rows = [k for k, name in enumerate(scored.names) if name == attack]
    sign = 1 if attack == PARAPHRASE else -1
    return sorted(rows, key=lambda k: (sign * gain[k], k))[:count]

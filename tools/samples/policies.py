"""Sampling policies: the choice of items from a pool. Pure functions, so equal arguments give equal answers.

    uniform       the same number of every question type, as far as they go
    hard_uniform  the same among hard items, whose pass rate is within a range
    random        any items
    hard_random   any hard items

Within a question type the order of items depends on the seed alone. So a smaller sample is part of a larger one if its
quotas are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from swift.utils.errors import UserError

EVERYTHING = "all"  # the one stratum of the random policies


@dataclass(frozen=True)
class SamplingPolicy:
    """A way to choose items: from all items or hard ones, with or without strata."""

    name: str
    hard: bool
    stratified: bool


POLICIES = {
    policy.name: policy
    for policy in (
        SamplingPolicy("uniform", hard=False, stratified=True),
        SamplingPolicy("hard_uniform", hard=True, stratified=True),
        SamplingPolicy("random", hard=False, stratified=False),
        SamplingPolicy("hard_random", hard=True, stratified=False),
    )
}
ALIASES = {"uniform_sample": "uniform", "hard_sample": "hard_uniform"}  # names in the published README


@dataclass(frozen=True)
class DrawSettings:
    """Settings of a draw, beside pool, policy and size."""

    seed: int = 42
    quotas: str = "equal"  # equal: every stratum weighs the same; proportional: by its size in the pool
    pass_rate: tuple[float, float] = (0.0, 0.5)  # range of hard items, both ends included
    strict: bool = False  # refuse to borrow from other strata


@dataclass(frozen=True)
class Pool:
    """Candidates for a sample, with the facts that the choice depends on. All sequences are [N]."""

    name: str
    keys: Sequence[object]  # equal keys are the same question, in other pools too
    strata: Sequence[str]
    pass_rates: Sequence[float] | None  # share of the model's answers that were right; None: unknown


@dataclass(frozen=True)
class Stratum:
    """Account of one stratum: the items that it should give, had, and gave."""

    wanted: int
    available: int
    taken: int


@dataclass(frozen=True)
class Draw:
    """Positions taken from a pool, in its order, and the account of its strata by name."""

    positions: list[int]
    strata: dict[str, Stratum]


def largest_remainder(
    total: int, weights: Mapping[str, Fraction | int], room: Mapping[str, int] | None = None
) -> dict[str, int]:
    """Split ``total`` into whole parts in proportion to ``weights``, by the method of largest remainders: each ideal
    part is rounded down, and the parts with the largest remainders get one more. Equal remainders go to the larger
    ``room``, then by name."""
    whole = sum(weights.values())
    ideal = {name: Fraction(total) * weight / whole for name, weight in weights.items()}
    quotas = {name: int(part) for name, part in ideal.items()}
    order = sorted(ideal, key=lambda name: (quotas[name] - ideal[name], -(room or {}).get(name, 0), name))
    for name in order[: total - sum(quotas.values())]:
        quotas[name] += 1
    return quotas


def apportion(total: int, weights: Mapping[str, Fraction | int], room: Mapping[str, int]) -> dict[str, int]:
    """`largest_remainder` with no part above its ``room``. Strata that are too small give all their items, and the
    others share the rest by their weights. The room must suffice for ``total``."""
    quotas: dict[str, int] = {}
    still_open = dict(weights)
    while still_open:
        parts = largest_remainder(total - sum(quotas.values()), still_open, room)
        full = [name for name, part in parts.items() if part > room[name]]
        if not full:
            return quotas | parts
        for name in full:
            quotas[name] = room[name]
            del still_open[name]
    return quotas


def draw(pool: Pool, policy: SamplingPolicy, size: int, settings: DrawSettings, taken: frozenset = frozenset()) -> Draw:
    """Draw ``size`` positions of a pool, none with a key in ``taken``.

    Raises UserError if there are too few candidates, if difficulty is unknown, or, with ``strict``, if a stratum is too
    small.
    """
    strata = pool.strata if policy.stratified else [EVERYTHING] * len(pool.keys)
    members: dict[str, list[int]] = {name: [] for name in sorted(set(strata))}
    for position in _candidates(pool, policy, settings, taken):
        members[strata[position]].append(position)
    room = {name: len(positions) for name, positions in members.items()}
    if sum(room.values()) < size:
        what = "hard items" if policy.hard else "items"
        raise UserError(
            f"{policy.name}: pool {pool.name} has {sum(room.values())} {what} for a sample of {size}; ask for fewer"
            + (", or widen --pass_rate" if policy.hard else "")
        )
    weights = dict.fromkeys(members, 1)
    if settings.quotas == "proportional":
        weights = dict.fromkeys(members, 0)
        for name in strata:
            weights[name] += 1
    wanted = largest_remainder(size, weights, room)
    quotas = apportion(size, weights, room)
    short = [name for name in members if room[name] < wanted[name]]
    if short and settings.strict:
        raise UserError(
            f"{policy.name} of {size}: pool {pool.name} has {room[short[0]]} of the {wanted[short[0]]} items of "
            f"stratum {short[0]!r}{_and_more(short)}; ask for fewer, or leave --strict out to borrow from other strata"
        )
    positions = [
        position
        for name, candidates in members.items()
        for position in _shuffled(candidates, (settings.seed, pool.name, name))[: quotas[name]]
    ]
    account = {name: Stratum(wanted[name], room[name], quotas[name]) for name in members}
    return Draw(sorted(positions), account)


def borrowing(draws: Draw) -> str | None:
    """One line that names the strata that were too small, and the number of items from other strata. None if all were
    large enough."""
    short = {name: part for name, part in draws.strata.items() if part.available < part.wanted}
    if not short:
        return None
    missing = sum(part.wanted - part.available for part in short.values())
    named = ", ".join(f"{name} has {part.available} of {part.wanted}" for name, part in short.items())
    return f"{missing} items borrowed from other strata, because some are too small: {named}"


def _candidates(pool: Pool, policy: SamplingPolicy, settings: DrawSettings, taken: frozenset) -> list[int]:
    free = [position for position, key in enumerate(pool.keys) if key not in taken]
    if not policy.hard:
        return free
    if pool.pass_rates is None:
        raise UserError(
            f"{policy.name}: pool {pool.name} does not tell how hard its items are; they need the field is_correct, "
            "or pass --results with the result files of evaluate.py"
        )
    low, high = settings.pass_rate
    return [position for position in free if low <= pool.pass_rates[position] <= high]


def _shuffled(positions: list[int], key: tuple[object, ...]) -> list[int]:
    """``positions`` in an order that depends on ``key`` alone."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    order = np.random.default_rng(np.frombuffer(digest, dtype=np.uint32)).permutation(len(positions))
    return [positions[index] for index in order]


def _and_more(names: Sequence[str]) -> str:
    return f" (and {len(names) - 1} more strata are short)" if len(names) > 1 else ""

"""Quotas and draws of the sampler against slow ways to compute them, and its speed."""

from __future__ import annotations

import json
import random
from collections import Counter
from fractions import Fraction

import pytest

from bench import sample_data as bench
from tools.samples.policies import POLICIES, DrawSettings, Pool, apportion, draw, largest_remainder

KINDS = ("plane", "presence", "size")


def dealt(total, room):
    """Equal quotas, the slow way: one at a time to each that has room, the roomiest first in the last round."""
    given = dict.fromkeys(room, 0)
    while total:
        takers = [name for name in sorted(room, key=lambda name: (-room[name], name)) if given[name] < room[name]]
        for name in takers[:total]:
            given[name] += 1
        total -= len(takers[:total])
    return given


def by_bisection(total, weights, room):
    """Parts min(room, level * weight) for the exact level at which they sum to ``total``: by trying every set of strata
    that might be full."""
    names = sorted(weights, key=lambda name: Fraction(room[name]) / weights[name])
    for full in range(len(names) + 1):
        rest = names[full:]
        if not rest:
            return {name: Fraction(room[name]) for name in names}
        level = Fraction(total - sum(room[name] for name in names[:full])) / sum(weights[name] for name in rest)
        if all(level * weights[name] <= room[name] for name in rest):
            return {name: min(Fraction(room[name]), level * weights[name]) for name in names}
    return None


def test_largest_remainder_by_hand():
    # 10 over 1:1:4 is 1.67, 1.67, 6.67: rounded down 8, and the two left go to a and b of the three equal remainders.
    assert largest_remainder(10, {"a": 1, "b": 1, "c": 4}) == {"a": 2, "b": 2, "c": 6}
    # ... to the roomiest, where room is known.
    assert largest_remainder(10, {"a": 1, "b": 1, "c": 4}, {"a": 5, "b": 2, "c": 9}) == {"a": 2, "b": 1, "c": 7}


@pytest.mark.parametrize("seed", range(60))
def test_equal_quotas_are_those_of_dealing_one_at_a_time(seed):
    rng = random.Random(seed)
    room = {f"k{number}": rng.randrange(0, 12) for number in range(rng.randrange(1, 9))}
    total = rng.randrange(0, sum(room.values()) + 1)
    assert apportion(total, dict.fromkeys(room, 1), room) == dealt(total, room)


@pytest.mark.parametrize("seed", range(60))
def test_weighted_quotas_are_the_exact_parts_rounded(seed):
    rng = random.Random(seed)
    weights = {f"k{number}": rng.randrange(1, 40) for number in range(rng.randrange(1, 9))}
    room = {name: rng.randrange(0, 60) for name in weights}
    total = rng.randrange(0, sum(room.values()) + 1)
    quotas, exact = apportion(total, weights, room), by_bisection(total, weights, room)
    assert sum(quotas.values()) == total
    for name, quota in quotas.items():
        assert quota <= room[name]
        assert abs(quota - exact[name]) < 1 + (exact[name] < room[name]), (name, quota, float(exact[name]))
    if all(largest_remainder(total, weights, room)[name] <= room[name] for name in room):
        # Nothing is full: rounded up are those with the largest remainders.
        remainders = {name: exact[name] - int(exact[name]) for name in quotas}
        up = [remainders[name] for name in quotas if quotas[name] > int(exact[name])]
        down = [remainders[name] for name in quotas if quotas[name] == int(exact[name])]
        assert not up or not down or min(up) >= max(down)


@pytest.mark.parametrize("seed", range(20))
def test_a_draw_gives_what_its_account_says(seed):
    rng = random.Random(seed)
    strata = [rng.choice(KINDS) for _ in range(rng.randrange(12, 60))]
    rates = [rng.choice([0.0, 0.25, 0.75, 1.0]) for _ in strata]
    pool = Pool("p", list(range(len(strata))), strata, rates)
    hard = [position for position, rate in enumerate(rates) if rate <= 0.5]
    for name, candidates in {"uniform": range(len(strata)), "hard_uniform": hard}.items():
        size = rng.randrange(1, len(candidates) + 1)
        drawn = draw(pool, POLICIES[name], size, DrawSettings(seed=seed))
        assert len(set(drawn.positions)) == size
        assert set(drawn.positions) <= set(candidates)
        counts = Counter(strata[position] for position in drawn.positions)
        available = Counter(strata[position] for position in candidates)
        assert counts == {n: part.taken for n, part in drawn.strata.items() if part.taken}
        assert dealt(size, {kind: available[kind] for kind in set(strata)}) == {
            n: part.taken for n, part in drawn.strata.items()
        }


def test_a_smaller_sample_lies_within_a_larger_one():
    pool = Pool("p", list(range(300)), [KINDS[number % 3] for number in range(300)], None)
    draws = [set(draw(pool, POLICIES["uniform"], size, DrawSettings()).positions) for size in (30, 31, 90)]
    assert draws[0] < draws[1] < draws[2]


def test_twenty_thousand_items_are_sampled_in_seconds(tmp_path, capsys):
    # 200,000 take under 10 s (python -m bench.sample_data); a tenth of that here, with room for a busy machine.
    assert bench.main(["--items", "20000", "--folder", str(tmp_path)]) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["items"] == 20000
    assert figures["seconds"] < 10

"""Means over processes that have observed different figures."""

from __future__ import annotations

import torch

from swift.trainers.metrics import Means


def over_processes(*processes: Means) -> list[dict[str, float]]:
    """The means that each process takes, computed in this one."""
    names = [means.names for means in processes]
    for means in processes:
        means.unite(names)
    rows = []
    for means in processes:
        own = [value for pair in means.sums.values() for value in pair]
        rows.append(torch.tensor([[*own, *means.extremes.values()]], dtype=torch.float64))
    return [means.pop(lambda _: torch.cat(rows)) for means in processes]


def test_each_process_may_have_observed_something_else():
    first, second = Means(), Means()
    first.add("shared", 4.0, 2)
    first.add("own", 3.0, 1)
    second.add("other", 10.0, 5)
    second.add("shared", 0.0, 2)
    second.extreme("length_max", 7.0)
    one, two = over_processes(first, second)
    assert one == two == {"shared": 1.0, "own": 3.0, "other": 2.0, "length_max": 7.0}


def test_a_process_may_have_observed_nothing():
    first, second = Means(), Means()
    second.add("reward", 3.0, 2)
    second.extreme("length_min", 2.0)
    assert over_processes(first, second)[0] == {"reward": 1.5, "length_min": 2.0}

"""Runs that are killed at random moments and resumed end as undisturbed ones (a small form of bench/kills.py)."""

from __future__ import annotations

import json

import pytest

from tests.support.builders import run_python


@pytest.mark.parametrize(
    ("setting", "kills", "steps"), [("dynamic_sampling", 3, 12), ("num_iterations", 2, 8), ("two_processes", 2, 8)]
)
def test_kills_leave_no_trace(world, setting, kills, steps):
    words = ["--settings", setting, "--kills", kills, "--steps", steps, "--threads", 1]
    words += ["--model", world / "policy", "--dataset", world / "data" / "train.json"]
    process = run_python("bench.kills", *words)
    assert process.returncode == 0, process.stdout + process.stderr
    counts = json.loads(process.stdout)
    assert (counts["kills"], counts["identical"]) == (kills, kills)

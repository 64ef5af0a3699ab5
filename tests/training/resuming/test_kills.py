"""Runs that are killed at random moments and resumed end as undisturbed ones (a small form of bench/kills.py)."""

from __future__ import annotations

import json

from tests.support.builders import run_python


def test_kills_leave_no_trace(world):
    words = ["--settings", "dynamic_sampling", "num_iterations", "--kills", 2, "--steps", 8, "--threads", 1]
    words += ["--model", world / "policy", "--dataset", world / "data" / "train.json"]
    process = run_python("bench.kills", *words)
    assert process.returncode == 0, process.stdout + process.stderr
    counts = [json.loads(line) for line in process.stdout.splitlines()]
    assert [(count["kills"], count["identical"]) for count in counts] == [(2, 2), (2, 2)]

"""Several processes: the line of the one that failed first is printed once, and again below the launcher's words."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.builders import ROOT, TORCHRUN

LAUNCH = (
    "import sys; from tools.train import run_launcher\n"
    f"sys.exit(run_launcher([sys.executable, '-m', *{TORCHRUN}, 'tests.support.processes.failing_ranks', sys.argv[1]]))"
)


@pytest.mark.parametrize(
    ("way", "line"),
    [
        ("same", "error: --beta x: give a number"),
        ("lost", "error: the reward is not finite"),
    ],
)
def test_the_first_line_is_the_first_and_the_last_that_one_reads(way, line):
    """It stood between a progress bar and fifty lines of gloo and torchrun, beside another about a lost connection."""
    done = subprocess.run([sys.executable, "-c", LAUNCH, way], cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    errors = [text for text in lines if text.startswith("error: ")]
    assert len(errors) == 2
    assert errors[0] == errors[1] == lines[-1]
    assert lines[-1].startswith(line)
    assert "closed by peer" not in done.stderr
    root = lines[next(number for number, text in enumerate(lines) if text.startswith("Root Cause")) :]
    assert any(text.startswith(f"  traceback : {line}") for text in root)  # for those who start torchrun themselves

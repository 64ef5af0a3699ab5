"""A run folder belongs to one process at a time, and to the next one once that has ended."""

from __future__ import annotations

import subprocess
import sys

import pytest

from swift.utils.errors import UserError
from swift.utils.locks import only_one
from tests.support.builders import ROOT

HOLD = (
    "import sys; from pathlib import Path; from swift.utils.locks import only_one\n"
    "with only_one(Path(sys.argv[1]), 'busy'):\n    print('held', flush=True); sys.stdin.read()"
)


def test_a_lock_held_by_another_process_is_refused_until_it_ends(tmp_path):
    path = tmp_path / "run" / ".lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, path], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(UserError, match="the folder is in use"), only_one(path, "the folder is in use"):
        pytest.fail("the lock was given twice")
    holder.kill()
    holder.wait()
    with only_one(path, "the folder is in use"):
        pass

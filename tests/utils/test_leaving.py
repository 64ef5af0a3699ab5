"""A command ends when it is done, whatever threads its plugins have left, and with its status."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from tests.support.builders import ROOT

SCRIPT = """
import atexit, concurrent.futures, multiprocessing, sys, threading, time
from swift.utils.endings import leaving
leaving.PATIENCE = 0.5
atexit.register(print, "at the exit")
def main():
    {left}
    print("done")
    return 3
leaving.run_to_its_end(main)
"""
FOREVER = {
    "a thread": "threading.Thread(target=time.sleep, args=(1000,), name='left').start()",
    "a pool": "pool = concurrent.futures.ThreadPoolExecutor(1, 'left'); pool.submit(time.sleep, 1000)",
    "a process": "multiprocessing.Process(target=time.sleep, args=(1000,), name='left').start()",
    "an error and a thread": "threading.Thread(target=time.sleep, args=(1000,), name='left').start(); 1 / 0",
}


def ended(left: str) -> tuple[subprocess.CompletedProcess, float]:
    began = time.monotonic()
    command = [sys.executable, "-c", SCRIPT.format(left=left)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60), time.monotonic() - began


@pytest.mark.parametrize("left", FOREVER.values(), ids=FOREVER)
def test_a_thread_that_does_not_end_is_named_and_not_waited_for(left):
    process, seconds = ended(left)
    fails = "1 / 0" in left
    assert process.returncode == (1 if fails else 3)
    assert process.stdout == ("at the exit\n" if fails else "done\nat the exit\n")
    assert process.stderr.splitlines()[-1].startswith(
        "warning: ended without waiting for what a plugin left behind: left"
    )
    assert seconds < 30


@pytest.mark.parametrize(
    "left",
    [
        "pass",
        "threading.Thread(target=time.sleep, args=(0.2,)).start()",
        "atexit.register(time.sleep, 1)",
        "concurrent.futures.ThreadPoolExecutor(1).submit(int)",
        "threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()",
        "multiprocessing.Process(target=time.sleep, args=(0.2,)).start()",
        "multiprocessing.Process(target=time.sleep, args=(1000,), daemon=True).start()",
        "concurrent.futures.ProcessPoolExecutor(1).submit(int)",
    ],
    ids=["nothing", "thread", "work at the exit", "idle pool", "daemon", "process", "daemon process", "idle processes"],
)
def test_what_ends_by_itself_is_not_cut_short(left):
    process, _ = ended(left)
    assert (process.returncode, process.stdout, process.stderr) == (3, "done\nat the exit\n", "")

"""Run commands with --help and import every module, in forked children, and print the outcome as JSON.

    python -m tests.support.surface "-m swift.cli.rlhf" "evaluate.py" ...

The libraries are imported once, before the forks, so that two dozen commands take seconds. The project's own modules
are imported by each child, in its own order.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import multiprocessing
import os
import runpy
import sys
import traceback
from pathlib import Path

import matplotlib.pyplot  # noqa: F401
import peft  # noqa: F401
import torch
from transformers import Phi4MultimodalForCausalLM, Trainer  # noqa: F401

from tests.support.source_tree import TOPS, read_modules


def show_help(words: str) -> tuple[int, str]:
    """Status and output of ``python WORDS --help``. ``sys.argv`` and ``sys.path`` are set as by the interpreter."""
    name = words.removeprefix("-m ")
    is_file = name == words
    sys.argv = [name, "--help"]
    sys.path[0] = str(Path(name).resolve().parent) if is_file else os.getcwd()
    status, output = 0, io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            if is_file:
                runpy.run_path(name, run_name="__main__")
            else:
                runpy.run_module(name, run_name="__main__")
        except SystemExit as error:
            status = error.code or 0
        except Exception:
            return 1, traceback.format_exc()
    return status, output.getvalue()


def failed_imports(names: list[str]) -> dict[str, str]:
    """Tracebacks of the modules that cannot be imported, by module."""
    failures = {}
    for name in names:
        try:
            importlib.import_module(name)
        except Exception:
            failures[name] = traceback.format_exc()
    return failures


def main(commands: list[str]) -> None:
    """Print [status, output] by command under "helps", and tracebacks by module under "failures"."""
    torch.set_num_threads(1)
    modules = [name for name in read_modules(Path.cwd(), TOPS) if ".test_" not in name]  # pytest imports the tests
    fork = multiprocessing.get_context("fork")
    with fork.Pool(os.cpu_count(), maxtasksperchild=1) as pool:
        failures = pool.apply_async(failed_imports, [modules])
        helps = pool.map(show_help, commands, chunksize=1)
        print(json.dumps({"helps": dict(zip(commands, helps, strict=True)), "failures": failures.get()}))


if __name__ == "__main__":
    main(sys.argv[1:])

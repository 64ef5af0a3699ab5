"""Run a model's Python in a separate, limited process.

This stops accidents (endless loops, memory, huge output, reading this process's environment or modules). It does not
stop malicious code, which can still reach the network and world-readable files. Use it inside a container.

The column ``verification_info`` of a record says how its code is checked: ``{"language", "test_cases": [{"input",
"output"}]}``, as an object or as JSON text.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from utils.answers import answer_span, has_think_answer_shape

_FENCE = re.compile(r"```(\w*)[^\S\n]*\n(.*?)```", re.DOTALL)
_MEMORY_BYTES = 512 * 2**20
_OUTPUT_BYTES = 2**20

# The limits are set by the child, not by preexec_fn, which may deadlock in a process that has threads.
_BOOTSTRAP = f"""
import resource, sys
limits = dict(RLIMIT_AS={_MEMORY_BYTES}, RLIMIT_FSIZE={_OUTPUT_BYTES}, RLIMIT_CPU=int(sys.argv[1]))
for limit, value in limits.items():
    resource.setrlimit(getattr(resource, limit), (value, value))
exec(compile(open("program.py", encoding="utf-8").read(), "program.py", "exec"), {{"__name__": "__main__"}})
"""


def code_score(completion: str, info: dict | str | None, may_run: bool) -> float:
    """Share of the test cases that the last fenced block of the completion passes.

    Records without test cases, completions without a fenced Python block and languages other than Python score 0.0.
    Raises ValueError if there is code to run and it may not run.
    """
    checks = read_verification(info)
    if not checks:
        return 0.0
    if not may_run:
        raise ValueError(
            "external_code_reward would run code written by the model; set CHEX_RUN_CODE=1 (in a container only),"
            " or remove verification_info from the data"
        )
    code = fenced_code(completion, "python") if checks["language"] == "python" else None
    return fraction_passed(code, checks["test_cases"]) if code else 0.0


def answers_with_code(completion: str, info: dict | str | None) -> bool:
    """True for a ``<think>`` span and an ``<answer>`` span with a fenced block in the record's language."""
    language = read_verification(info).get("language")
    return has_think_answer_shape(completion) and fenced_code(answer_span(completion), language) is not None


def read_verification(info: dict | str | None) -> dict[str, Any]:
    """``verification_info`` of a record as an object, empty if the record has none."""
    return (json.loads(info) if isinstance(info, str) and info else info) or {}


def fenced_code(text: str, language: str | None = None) -> str | None:
    """The last fenced block marked ``language`` (with any mark if that is None), or None if there is no such block."""
    blocks = [code for marked, code in _FENCE.findall(text) if language in (None, marked.lower())]
    return blocks[-1] if blocks else None


def fraction_passed(program: str, test_cases: Iterable[Mapping[str, str]]) -> float:
    """Share of ``{"input", "output"}`` cases whose output ``program`` prints; 0.0 if there are no cases.

    Blanks at line ends and empty lines at either end do not count.
    """
    verdicts = []
    for case in test_cases:
        printed = run_python(program, stdin=case["input"])
        verdicts.append(printed is not None and _lines(printed) == _lines(case["output"]))
    return sum(verdicts) / len(verdicts) if verdicts else 0.0


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip().splitlines()]


def run_python(program: str, stdin: str = "", seconds: int = 5) -> str | None:
    """Run ``program`` on ``stdin`` and return its stdout; None if it fails or exceeds a limit.

    Limits: ``seconds`` of wall clock and of CPU, 512 MiB of memory, 1 MiB of output. The program runs with
    ``python -I`` and an empty environment. Its working directory is an empty folder, which is removed afterwards. The
    processes that it starts are killed with it. A child that leaves its session is stopped by the CPU limit only.
    """
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "program.py").write_text(program, encoding="utf-8")
        with Path(folder, "stdout").open("w+b") as stdout:
            process = subprocess.Popen(
                [sys.executable, "-I", "-c", _BOOTSTRAP, str(seconds)],
                stdin=subprocess.PIPE,
                stdout=stdout,
                stderr=subprocess.DEVNULL,
                cwd=folder,
                env={},
                start_new_session=True,
            )
            try:
                process.communicate(stdin.encode(), timeout=seconds)
            except subprocess.TimeoutExpired:
                return None
            finally:
                _end_session(process)
            stdout.seek(0)
            return stdout.read().decode(errors="replace") if process.returncode == 0 else None


def _end_session(process: subprocess.Popen) -> None:
    """Kill the program and whatever it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    finally:
        process.wait()

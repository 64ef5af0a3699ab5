"""Run a model's Python in a separate, limited process.

With ``CHEX_RUN_CODE=1`` the process runs in a sandbox (`utils.sandbox`): no network, no files but Python's, no
processes, no environment. With ``CHEX_RUN_CODE=unsafe`` it only has limits, which stop accidents but not attacks: it
can reach the network, and every file that this user can read or write.

The column ``verification_info`` of a record says how its code is checked: ``{"language", "test_cases": [{"input",
"output"}]}``, as an object or as JSON text.
"""

from __future__ import annotations

import functools
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from utils.answers import answer_span, has_think_answer_shape
from utils.sandbox.bubblewrap import FILTER, NOBODY, filter_text, sandboxed_python

_FENCE = re.compile(r"```(\w*)[^\S\n]*\n(.*?)```", re.DOTALL)
_OUTPUT_BYTES = 2**20
_LIMITS = {  # of the process; root's processes are not counted, so a sandbox made by root has the user nobody
    "RLIMIT_AS": 512 * 2**20,
    "RLIMIT_FSIZE": _OUTPUT_BYTES,
    "RLIMIT_NOFILE": 64,
    "RLIMIT_CORE": 0,
    "RLIMIT_MSGQUEUE": 0,
    "RLIMIT_MEMLOCK": 0,
    "RLIMIT_SIGPENDING": 64,
}
_THREADS = 256  # in all sandboxes of a user at once, as far as the kernel tells them from other processes

# The limits are set by the child, not by preexec_fn, which may deadlock in a process that has threads.
_BOOTSTRAP = f"""
import os, resource, sys
file, seconds, confined = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "1"
limits = {_LIMITS} | dict(RLIMIT_CPU=seconds) | (dict(RLIMIT_NPROC={_THREADS}) if confined else {{}})
for limit, value in limits.items():
    resource.setrlimit(getattr(resource, limit), (value, value))
if confined and os.geteuid() == 0:
    os.setgroups([])
    os.setresgid({NOBODY}, {NOBODY}, {NOBODY})
    os.setresuid({NOBODY}, {NOBODY}, {NOBODY})
with open(file, encoding="utf-8") as text:
    program = text.read()
del sys.argv[1:], file, limits
os.environ.clear()
exec(compile(program, "program.py", "exec"), {{"__name__": "__main__"}})
"""

Runner = Callable[..., "str | None"]  # a `run_python` whose parameter `confined` is chosen


def chosen_runner(environment: Mapping[str, str] = os.environ) -> Runner | None:
    """`run_python` as CHEX_RUN_CODE asks for it; None if code may not run.

    Raises:
        ValueError: the variable has another value than 0, 1 and unsafe, or there is no sandbox here. A program is run
            to find out.
    """
    value = environment.get("CHEX_RUN_CODE", "")
    if value in ("", "0"):
        return None
    if value not in ("1", "unsafe"):
        raise ValueError(
            f"CHEX_RUN_CODE={value!r} is neither on nor off; set CHEX_RUN_CODE=1, 0, or unsafe (without a sandbox)"
        )
    if value == "1" and (reason := sandbox_fault()):
        raise ValueError(
            f"CHEX_RUN_CODE=1 runs code in a sandbox, but {reason}; or set CHEX_RUN_CODE=unsafe in a container"
        )
    return functools.partial(run_python, confined=value == "1")


def code_score(completion: str, info: dict | str | None, run: Runner | None) -> float:
    """Share of the test cases that the last fenced block of the completion passes.

    Records without test cases, completions without a fenced Python block and languages other than Python score 0.0.
    Raises ValueError if there is code and no ``run`` to run it with.
    """
    checks = read_verification(info)
    if not checks:
        return 0.0
    if run is None:
        raise ValueError(
            "external_code_reward would run code written by the model; set CHEX_RUN_CODE=1 to run it in a sandbox,"
            " or remove verification_info from the data"
        )
    code = fenced_code(completion, "python") if checks["language"] == "python" else None
    return fraction_passed(code, checks["test_cases"], run) if code else 0.0


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


def fraction_passed(program: str, test_cases: Iterable[Mapping[str, str]], run: Runner) -> float:
    """Share of ``{"input", "output"}`` cases whose output ``program`` prints; 0.0 if there are no cases.

    Blanks at line ends and empty lines at either end do not count.
    """
    verdicts = []
    for case in test_cases:
        printed = run(program, stdin=str(case["input"]))
        verdicts.append(printed is not None and _lines(printed) == _lines(str(case["output"])))
    return sum(verdicts) / len(verdicts) if verdicts else 0.0


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip().splitlines()]


def run_python(program: str, stdin: str = "", seconds: int = 5, *, confined: bool = True) -> str | None:
    """Run ``program`` on ``stdin`` and return its stdout; None if it fails or exceeds a limit.

    Limits: ``seconds`` of wall clock and of CPU, 512 MiB of memory, 1 MiB of output, 64 open files. The program runs
    with ``python -I`` and an empty environment. Its working directory is an empty folder, which is removed afterwards.
    If it is ``confined``, it runs in the sandbox, and nothing of it is left. Otherwise the processes that it started
    are killed with it, but one that leaves its session is stopped by the CPU limit only.
    """
    return _run(program, stdin, seconds, confined, subprocess.DEVNULL)


def _run(program: str, stdin: str, seconds: int, confined: bool, stderr: int) -> str | None:
    with ExitStack() as stack:
        code, stdout = (stack.enter_context(_in_memory(text)) for text in (program.encode(errors="replace"), b""))
        words, files = [sys.executable, "-I"], [code]
        if confined:
            files += [calls := stack.enter_context(_in_memory(filter_text()))]
            words = [str(calls) if word == FILTER else word for word in sandboxed_python()]
        process = subprocess.Popen(
            [*words, "-c", _BOOTSTRAP, str(code), str(seconds), str(int(confined))],
            stdin=subprocess.PIPE,
            stdout=stdout,
            stderr=stderr,
            cwd="/" if confined else stack.enter_context(tempfile.TemporaryDirectory()),
            env={},
            pass_fds=files,
            start_new_session=True,
        )
        try:
            process.communicate(stdin.encode(errors="replace"), timeout=seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            _end_session(process)
        printed = os.pread(stdout, _OUTPUT_BYTES, 0)
        return printed.decode(errors="replace") if process.returncode == 0 and len(printed) < _OUTPUT_BYTES else None


@functools.cache
def sandbox_fault() -> str:
    """The reason why no program can run in the sandbox here, found by running one. Empty if one can."""
    try:
        with _in_memory(b"") as stderr:
            printed = _run("import json\nprint(json.dumps(6 * 7))", "", 30, True, stderr)
            said = os.pread(stderr, 4096, 0).decode(errors="replace").split("\n")
    except (OSError, ValueError) as error:
        return str(error)
    if printed == "42\n":
        return ""
    return "it cannot start here: " + (next((line for line in reversed(said) if line), "") or "no answer in 30 seconds")


@contextmanager
def _in_memory(content: bytes) -> Iterator[int]:
    """The descriptor of a file in memory with this content, to be read from its beginning."""
    file = os.memfd_create("file")
    try:
        os.pwrite(file, content, 0)
        yield file
    finally:
        os.close(file)


def _end_session(process: subprocess.Popen) -> None:
    """Kill the program and whatever it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    finally:
        process.wait()

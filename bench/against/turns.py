"""Two checkouts at the same work, in turns."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from swift.utils.errors import UserError

HERE = Path(__file__).resolve().parents[2]
WORKER = Path(__file__).with_name("worker.py")
SHOWN = 2000  # characters of a worker's output in an error


@dataclass
class Turns:
    """The counted turns of one checkout."""

    name: str
    facts: list[dict[str, Any]] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Median of the seconds of a turn."""
        return statistics.median(fact["seconds"] for fact in self.facts)

    @property
    def peak(self) -> int:
        """Highest memory of the process so far, bytes."""
        return max(fact["peak"] for fact in self.facts)


def take_turns(
    kind: str, other: Path, settings: dict[str, dict[str, Any]], rounds: int, folder: Path
) -> tuple[Turns, Turns]:
    """Let the checkout ``other`` and this one do ``rounds`` turns each, after one that does not count.

    ``kind`` is a function of worker.py, and ``settings`` has the settings of "old" (the other one) and "new". The
    output of both goes into ``folder``. Raises UserError if a process fails.
    """
    if not (other / "swift").is_dir():
        raise UserError(f"--against {other} is not a checkout of this project: it has no folder swift")
    turns = Turns("old"), Turns("new")
    with ExitStack() as stack:
        workers = [
            stack.enter_context(_worker(kind, checkout, settings[own.name], folder / f"{own.name}.txt"))
            for own, checkout in zip(turns, (other, HERE), strict=True)
        ]
        for counted in [False] + [True] * rounds:
            for own, worker in zip(turns, workers, strict=True):
                facts = worker.turn()
                if counted:
                    own.facts.append(facts)
    return turns


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    ask: TextIO
    told: TextIO
    output: Path

    def turn(self) -> dict[str, Any]:
        self.hear()
        self.ask.write("go\n")
        self.ask.flush()
        return self.hear()

    def hear(self) -> dict[str, Any]:
        """The next line of the process. Raises UserError if it has ended."""
        line = self.told.readline()
        if not line:
            said = self.output.read_text(encoding="utf-8", errors="replace")[-SHOWN:]
            raise UserError(f"a process ended early (status {self.process.wait()}); its output ends with:\n{said}")
        return json.loads(line)


@contextmanager
def _worker(kind: str, checkout: Path, settings: dict[str, Any], output: Path) -> Iterator[_Worker]:
    """A process that works with the modules of ``checkout``. It is stopped at the end of the block."""
    (asked, ask), (heard, told) = os.pipe(), os.pipe()
    command = [sys.executable, "-P", str(WORKER), kind, str(asked), str(told), json.dumps(settings)]
    environment = {**os.environ, "PYTHONPATH": str(checkout.resolve())}
    with output.open("wb") as log:
        process = subprocess.Popen(
            command, cwd=checkout, env=environment, stdout=log, stderr=log, pass_fds=(asked, told)
        )
    os.close(asked)
    os.close(told)
    with os.fdopen(ask, "w") as asking, os.fdopen(heard) as hearing:
        try:
            yield _Worker(process, asking, hearing, output)
        finally:
            process.kill()
            process.wait()

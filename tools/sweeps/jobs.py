"""Processes of a sweep: starting one with its log, stopping it so that it keeps its work, and one sweep at a time."""

from __future__ import annotations

import ctypes
import datetime
import fcntl
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from swift.utils.errors import UserError
from tools.sweeps.runs import PlannedRun, Stage, replaces_evaluation, step_of

ROOT = Path(__file__).resolve().parents[2]
POLL_SECONDS = 0.1
LOCK_SECONDS = 60
LINES_SHOWN = 300  # characters of an error, from its beginning, which says what is wrong
PR_SET_PDEATHSIG = 1


@dataclass
class RunProcess:
    """A stage of a run at work."""

    run: PlannedRun
    stage: Stage
    gpus: str | None
    log: Path
    process: subprocess.Popen
    signals: int = 0  # how many it was sent

    def stop(self, times: int) -> None:
        """See to it that it was signalled so many times: to end after its step, to end at once, to be killed."""
        while self.signals < times and self.process.poll() is None:
            self.signals += 1
            if self.signals <= 2:
                self.process.terminate()
            else:
                os.killpg(self.process.pid, signal.SIGKILL)

    def progress(self) -> str:
        """Where it stands, for the status line."""
        if self.stage is Stage.EVALUATE:
            return "evaluating"
        total = "" if self.run.steps is None else f"/{self.run.steps}"
        return f"step {step_of(self.run)}{total}"

    def last_words(self) -> str:
        """How its process failed, and the last line it wrote."""
        status = self.process.returncode
        lines = [line.strip() for line in self.log.read_text("utf-8", "replace").splitlines() if line.strip()]
        what = f"signal {-status}" if status < 0 else f"exit status {status}"
        return f"{what}: {lines[-1][:LINES_SHOWN]}" if len(lines) > 1 else what


def start_job(run: PlannedRun, stage: Stage, gpus: str | None, logs: Path, lock: int) -> RunProcess:
    """Start a stage of a run: in a session of its own, so that a terminal's Ctrl-C does not reach it past the sweep."""
    command = list(run.evaluate if stage is Stage.EVALUATE else run.train)
    if stage is Stage.RESUME:
        command += ["--resume_from_checkpoint", "true"]
    if stage is Stage.EVALUATE and replaces_evaluation(run):
        command += ["--resume", "false"]
    log = logs / f"{datetime.datetime.now():%Y%m%d-%H%M%S}_{run.tag}{'_eval' * (stage is Stage.EVALUATE)}.log"
    environment = {**os.environ, **({} if gpus is None else {"CUDA_VISIBLE_DEVICES": gpus})}
    with open(log, "ab") as file:
        file.write(f"$ {shlex.join(command)}\n".encode())
        file.flush()
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file,
            start_new_session=True, pass_fds=(lock,), preexec_fn=_end_with_parent,
        )  # fmt: skip
    return RunProcess(run, stage, gpus, log, process)


@contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Hold the sweep's lock, which its jobs inherit: nobody begins while one of them still writes. Raises UserError."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "ab") as file:
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise UserError(
                        f"another sweep, or a run that one started, still works in {folder}; wait for it, or end it"
                    ) from None
                time.sleep(POLL_SECONDS)
        yield file.fileno()


def _end_with_parent() -> None:
    """In a child on Linux: a SIGTERM when the parent dies, however it dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

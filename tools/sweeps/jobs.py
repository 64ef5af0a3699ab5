"""Processes of a sweep: start one with its log, stop it so that it keeps its work, and allow one sweep per folder."""

from __future__ import annotations

import ctypes
import datetime
import fcntl
import os
import re
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
EVALUATED = re.compile(r"(\S+): (\d+/\d+) questions$", re.MULTILINE)  # lines of the evaluation's log
POLL_SECONDS = 0.1
LOCK_SECONDS = 60
REASON_SHOWN = 300  # characters of an error; its beginning says what is wrong
PR_SET_PDEATHSIG = 1


@dataclass
class RunProcess:
    """The process of one stage of a run."""

    run: PlannedRun
    stage: Stage
    gpus: str | None
    log: Path
    process: subprocess.Popen
    signals: int = 0  # sent so far

    def stop(self, times: int) -> None:
        """Send signals until the process has had ``times`` of them: one ends it after its step, two end it at once,
        three kill it."""
        while self.signals < times and self.process.poll() is None:
            self.signals += 1
            if self.signals <= 2:
                self.process.terminate()
            else:
                os.killpg(self.process.pid, signal.SIGKILL)

    def progress(self) -> str:
        """Progress for the status line."""
        if self.stage is Stage.EVALUATE:
            lines = EVALUATED.findall(self.log.read_text("utf-8", "replace"))
            return f"evaluating {lines[-1][0]}, {lines[-1][1]} questions" if lines else "evaluating"
        total = "" if self.run.steps is None else f"/{self.run.steps}"
        return f"step {step_of(self.run)}{total}"

    def last_words(self) -> str:
        """Exit status or signal of the failed process, and the last error in its log, or else the last line."""
        status = self.process.returncode
        lines = [line.strip() for line in self.log.read_text("utf-8", "replace").splitlines() if line.strip()]
        what = f"signal {-status}" if status < 0 else f"exit status {status}"
        errors = [line for line in lines if line.startswith("error: ")]
        return f"{what}: {(errors or lines)[-1][:REASON_SHOWN]}" if len(lines) > 1 else what


def start_job(run: PlannedRun, stage: Stage, gpus: str | None, logs: Path, lock: int) -> RunProcess:
    """Start a stage of a run, in a session of its own: a terminal's Ctrl-C then reaches the sweep alone."""
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
            start_new_session=True, pass_fds=(lock,), preexec_fn=end_with_parent,
        )  # fmt: skip
    return RunProcess(run, stage, gpus, log, process)


@contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Hold the lock of a sweep. Its jobs inherit the lock, so another sweep waits until they have stopped writing.
    Raises UserError after `LOCK_SECONDS` of waiting."""
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
                        f"another sweep, or a run that it started, still works in {folder}; wait for it, or end it"
                    ) from None
                time.sleep(POLL_SECONDS)
        yield file.fileno()


def end_with_parent() -> None:
    """Ask Linux for a SIGTERM to this child process when its parent dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

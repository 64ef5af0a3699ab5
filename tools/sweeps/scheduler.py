"""Scheduler of a sweep: trains and evaluates its runs, some side by side, and keeps their states in sweep.json."""

from __future__ import annotations

import datetime
import os
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swift.utils.errors import INTERRUPTED, UserError
from swift.utils.files import try_read_json, write_json
from swift.utils.lines import without_controls
from tools.reports.training_page import leave_training_page
from tools.sweeps.jobs import POLL_SECONDS, RunProcess, start_job
from tools.sweeps.runs import PlannedRun, Stage, next_stage, note_evaluation, note_start, step_of
from tools.sweeps.settings import whole_number


class Ledger:
    """sweep.json: settings, status and reason of every run by tag, with the runs of earlier plans."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "sweep.json"
        self.runs: dict[str, dict[str, Any]] = (try_read_json(self.path) or {}).get("runs", {})

    def note(self, run: PlannedRun, status: str, reason: str = "", log: Path | None = None) -> None:
        """Set the status of a run, on disk as well."""
        entry = {**run.settings, "folder": run.folder.name, "status": status, "reason": reason}
        self.runs[run.tag] = entry | ({"log": str(log)} if log else {})
        write_json(self.path, {"runs": dict(sorted(self.runs.items()))})


@dataclass
class Scheduler:
    """All runs of a plan. One job runs per slot of ``slots``, which holds the GPUs of the job, or None."""

    runs: list[PlannedRun]
    ledger: Ledger
    logs: Path
    slots: deque[str | None]
    lock: int
    status_seconds: float
    stops: int = 0
    jobs: list[RunProcess] = field(default_factory=list)
    shown: float = 0.0

    def work(self) -> int:
        """Do all the work that is left. Returns the exit status."""
        started = time.monotonic()
        waiting = deque((run, stage) for run in self.runs if (stage := self._due(run)) is not None)
        while self.jobs or (waiting and not self.stops):
            while waiting and self.slots and not self.stops:
                self._start(*waiting.popleft(), self.slots.popleft())
            for job in self.jobs:
                if job.signals < self.stops:
                    self._say(
                        f"stopping {job.run.tag}; signal again to {'kill it' if job.signals else 'stop it at once'}"
                    )
                    job.stop(self.stops)
            for job in [job for job in self.jobs if job.process.poll() is not None]:
                self._end(job)
            self._show_status(time.monotonic() - started, len(waiting))
            time.sleep(POLL_SECONDS)
        return self._report()

    def stop(self, *_: Any) -> None:
        """Count one signal that interrupts the sweep."""
        self.stops += 1

    def _due(self, run: PlannedRun) -> Stage | None:
        """The work that is left for a run, noted in sweep.json. None if the run is finished or cannot be done."""
        try:
            stage = next_stage(run)
        except UserError as error:
            self.ledger.note(run, "failed", str(error))
            return None
        self.ledger.note(run, "finished" if stage is Stage.NOTHING else "planned")
        return None if stage is Stage.NOTHING else stage

    def _start(self, run: PlannedRun, stage: Stage, gpus: str | None) -> None:
        note_start(run)
        self.jobs.append(start_job(run, stage, gpus, self.logs, self.lock))
        log = self.jobs[-1].log
        self.ledger.note(run, "running", log=log)
        self._say(f"{stage.value}: {run.tag}{'' if gpus is None else f' on GPU {gpus}'}, log {log}")

    def _end(self, job: RunProcess) -> None:
        """Note the end of a job. A trained run is evaluated in the same slot."""
        self.jobs.remove(job)
        stage, reason = _outcome(job)
        if stage is Stage.EVALUATE and not reason and not self.stops:
            self._start(job.run, stage, job.gpus)
            return
        self.slots.append(job.gpus)
        if stage is Stage.NOTHING:
            status = "finished"
        elif self.stops:
            status, reason = "interrupted", f"at step {step_of(job.run)}"
        else:
            status = "failed"
        self.ledger.note(job.run, status, reason, job.log)
        self._say(f"{status}: {job.run.tag}{f': {reason}' if reason else ''}")

    def _show_status(self, seconds: float, waiting: int) -> None:
        terminal = sys.stderr.isatty()
        if not self.jobs or time.monotonic() - self.shown < (1.0 if terminal else self.status_seconds):
            return
        self.shown = time.monotonic()
        ends = [self.ledger.runs[run.tag]["status"] for run in self.runs]
        line = (
            f"[{datetime.timedelta(seconds=int(seconds))}] {ends.count('finished')} of {len(ends)} finished, "
            f"{ends.count('failed')} failed, {waiting} waiting; "
            + "; ".join(f"{job.run.tag} {job.progress()}" for job in self.jobs)
        )
        if terminal:
            line = f"\r\033[K{line[: os.get_terminal_size(sys.stderr.fileno()).columns - 1]}"
        print(line, end="" if terminal else "\n", file=sys.stderr, flush=True)

    def _say(self, text: str) -> None:
        print(f"{_over_status_line()}{without_controls(text)}", file=sys.stderr, flush=True)

    def _report(self) -> int:
        """Print the runs that are not finished. Returns the exit status."""
        entries = {run.tag: self.ledger.runs[run.tag] for run in self.runs}
        left = {tag: entry for tag, entry in entries.items() if entry["status"] != "finished"}
        self._say(f"{len(entries) - len(left)} of {len(entries)} runs finished")
        for tag, entry in left.items():
            reason = f": {entry['reason']}" if entry["reason"] else ""
            log = f" (log {entry['log']})" if "log" in entry else ""
            self._say(f"{entry['status']}: {tag}{reason}{log}")
        if self.stops:
            self._say("interrupted; start the same command again to resume")
            return INTERRUPTED
        return int(bool(left))


def _outcome(job: RunProcess) -> tuple[Stage, str]:
    """The next stage of a run whose job has ended, and the reason of its failure, "" if it did not fail."""
    if job.process.returncode != 0:
        return job.stage, job.last_words()
    try:
        if job.stage is Stage.EVALUATE:
            note_evaluation(job.run)
        stage = next_stage(job.run)
    except UserError as error:
        return job.stage, str(error)
    if job.stage is not Stage.EVALUATE:
        leave_training_page(job.run.folder)
    if stage in (Stage.START, Stage.RESUME) or stage is job.stage:
        return stage, "the program ended with status 0 but did not finish its work"
    return stage, ""


def _over_status_line() -> str:
    return "\r\033[K" if sys.stderr.isatty() else ""


def job_slots(gpus: Sequence[str], jobs: str) -> deque[str | None]:
    """One entry per job that may run at once: the GPUs it is given, or None. Jobs share the GPUs in turn."""
    count = whole_number("JOBS", jobs, 1) if jobs else max(1, len(gpus))
    return deque(gpus[number % len(gpus)] if gpus else None for number in range(count))

"""Seconds and peak memory of the parts of a run.

On the host the peak is that of resident memory, which Linux counts and forgets on request. On a GPU it is that of the
memory that torch's allocator has handed out.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers import TrainerCallback

from swift.trainers.step_clock import UPDATE

START, BETWEEN = "Python and libraries", "between parts"
SCORES, GRADIENTS, OPTIMIZER = "scores before the update", "forward and backward", "optimizer"
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
FORGET_PEAK = "5"  # what Linux wants in clear_refs to count the peak from now on
KIBIBYTE = 1024


@dataclass(frozen=True)
class Measure:
    """One part of a run: seconds, and peak memory in bytes of the host and, if one is used, of the device."""

    seconds: float
    host: float
    device: float | None

    def with_later(self, later: Measure) -> Measure:
        """Both together: the sum of seconds and the higher peaks."""
        device = None if self.device is None or later.device is None else max(self.device, later.device)
        return Measure(self.seconds + later.seconds, max(self.host, later.host), device)


class PartGauge(TrainerCallback):
    """Measures parts, in place of a trainer's `StepClock`.

    A step's parts are the blocks within :meth:`timed`, forward and backward passes, and the optimizer. ``parts`` has
    the seconds of the last step and the peaks of all steps. It begins with what the process takes before anything is
    measured. Whatever falls between two parts is one more.
    """

    def __init__(self) -> None:
        self.parts: dict[str, Measure] = {START: Measure(0.0, *peaks())}
        self._step: dict[str, Measure] = {}
        self._began = time.perf_counter()
        forget_peaks()

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Measure the block as ``part``. The trainer counts the scores that its loss compares with as update."""
        self._close(BETWEEN)
        yield
        self._close(SCORES if part == UPDATE else part)

    def on_step_begin(self, args, state, control, **kwargs):
        self._close(BETWEEN)

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        self._close(GRADIENTS)

    def on_optimizer_step(self, args, state, control, **kwargs):
        self._close(OPTIMIZER)

    def on_step_end(self, args, state, control, **kwargs):
        self.finish()

    def finish(self) -> None:
        """End a step: its seconds replace those of the step before, its peaks count if they are higher."""
        self._close(BETWEEN)
        for part, measure in self._step.items():
            whole = self.parts[part].with_later(measure) if part in self.parts else measure
            seconds = whole.seconds if part == BETWEEN else measure.seconds
            self.parts[part] = replace(whole, seconds=seconds)
        self._step = {}

    def _close(self, part: str) -> None:
        """Count the time since the last call as ``part``."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        measure = Measure(now - self._began, *peaks())
        self._step[part] = self._step[part].with_later(measure) if part in self._step else measure
        self._began = now
        forget_peaks()


def peaks() -> tuple[float, float | None]:
    """Peak memory in bytes since :func:`forget_peaks`, of the host and of the GPU; None without one."""
    lines = STATUS.read_text().splitlines()
    host = next(int(line.split()[1]) * KIBIBYTE for line in lines if line.startswith("VmHWM"))
    return host, torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None


def forget_peaks() -> None:
    """Count peaks from now on. If the system does not allow it, the host's peak is that of the whole process."""
    with suppress(OSError):
        CLEAR.write_text(FORGET_PEAK)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def table(parts: Mapping[str, Measure]) -> list[str]:
    """Lines with the parts, their seconds and their peaks in GB (1e9 bytes). What is between parts comes last, before
    all seconds and the highest peaks."""
    rows = {part: parts[part] for part in sorted(parts, key=lambda part: part == BETWEEN)}
    rows["all"] = functools.reduce(Measure.with_later, parts.values())
    with_device = rows["all"].device is not None
    width = max(map(len, rows))
    header = f"{'part':{width}} {'seconds':>9} {'host GB':>9}" + (f" {'GPU GB':>9}" if with_device else "")
    return [header] + [
        f"{part:{width}} {measure.seconds:9.2f} {measure.host / 1e9:9.2f}"
        + (f" {measure.device / 1e9:9.2f}" if with_device else "")
        for part, measure in rows.items()
    ]

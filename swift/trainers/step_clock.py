"""Seconds that each stage of an optimizer step takes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from transformers import TrainerCallback

from swift.trainers.metrics import Means
from swift.utils.stages import stage as profiled

UPDATE = "update"
PROFILED = {"rollout": "decode", UPDATE: "reference"}  # names in a profile of what is timed outside of the update


class StepClock(TrainerCallback):
    """Observe the seconds of every stage in ``means`` as ``seconds/STAGE``, one observation per optimizer step.

    The stage ``update`` runs from the Trainer's begin of a step to its end, which is after the optimizer. Work outside
    this span is timed with :meth:`timed`. A step that skips a stage observes 0 seconds for it, so that the stages of a
    step add up to its time.
    """

    def __init__(self, means: Means, *stages: str) -> None:
        self.means = means
        self.seconds = dict.fromkeys([*stages, UPDATE], 0.0)
        self._began = 0.0

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the seconds of the block to ``stage``."""
        began = time.perf_counter()
        with profiled(PROFILED.get(stage, stage)):
            yield
        self.seconds[stage] += time.perf_counter() - began

    def on_step_begin(self, args, state, control, **kwargs):
        self._began = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        self.seconds[UPDATE] += time.perf_counter() - self._began
        for stage, seconds in self.seconds.items():
            self.means.add(f"seconds/{stage}", seconds)
        self.seconds = dict.fromkeys(self.seconds, 0.0)

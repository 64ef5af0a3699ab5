"""Seconds per step and stage, measured with a clock that the test sets."""

from __future__ import annotations

from swift.trainers import step_clock
from swift.trainers.metrics import Means
from swift.trainers.step_clock import StepClock


class SetTime:
    """Stand-in for the module `time`."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


def step(clock: StepClock, time: SetTime, rollout: float, update: float) -> None:
    if rollout:
        with clock.timed("rollout"):
            time.now += rollout
    time.now += 100  # time between the stages counts for none
    clock.on_step_begin(None, None, None)
    time.now += update
    clock.on_step_end(None, None, None)


def test_stages_are_averaged_over_steps_and_a_skipped_stage_counts_as_zero(monkeypatch):
    time = SetTime()
    monkeypatch.setattr(step_clock, "time", time)
    means = Means()
    clock = StepClock(means, "rollout", "reward")
    step(clock, time, rollout=4, update=1)
    step(clock, time, rollout=0, update=2)
    # rollout (4 + 0) / 2, update (1 + 2) / 2, no reward was timed
    expected = {"seconds/rollout": 2.0, "seconds/reward": 0.0, "seconds/update": 1.5}
    assert means.pop(lambda row: row) == expected


def test_work_before_the_step_can_count_as_update(monkeypatch):
    time = SetTime()
    monkeypatch.setattr(step_clock, "time", time)
    means = Means()
    clock = StepClock(means)
    with clock.timed("update"):
        time.now += 3
    step(clock, time, rollout=0, update=1)
    assert means.pop(lambda row: row) == {"seconds/update": 4.0}

"""Seconds and work of the stages of a step, measured only while a `StageMeter` listens.

Code marks its stages with :func:`stage` and :func:`staged` and counts work with :func:`count_work`. Without a listener
all of these cost next to nothing.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any


@dataclass
class StageWork:
    """Seconds and work of one stage so far."""

    seconds: float = 0.0
    tokens: int = 0  # through the decoder, padding included
    head_tokens: int = 0  # through the head
    passes: int = 0  # reads of all weights


class StageMeter:
    """Measures stages one inside the other. The seconds of an inner stage do not count for the outer one.

    ``wait`` waits for the device, so that work is charged to the stage that caused it.
    """

    def __init__(self, wait: Callable[[], None]) -> None:
        self.wait = wait
        self.stages: dict[str, StageWork] = defaultdict(StageWork)
        self._open: list[str] = []
        self._since = time.perf_counter()

    def enter(self, name: str) -> None:
        """Begin a stage."""
        self._charge()
        self._open.append(name)

    def leave(self) -> None:
        """End the innermost stage."""
        self._charge()
        self._open.pop()

    def take(self) -> dict[str, StageWork]:
        """The stages since the last call. Time outside of all stages is the stage "other"."""
        self._charge()
        taken, self.stages = dict(self.stages), defaultdict(StageWork)
        return taken

    def _charge(self) -> None:
        self.wait()
        now = time.perf_counter()
        self.current.seconds += now - self._since
        self._since = now

    @property
    def current(self) -> StageWork:
        """The innermost stage."""
        return self.stages[self._open[-1] if self._open else "other"]


_listening: list[StageMeter] = []


@contextmanager
def listening(meter: StageMeter) -> Iterator[None]:
    """Let ``meter`` measure within the block, and no other."""
    _listening.append(meter)
    try:
        yield
    finally:
        _listening.remove(meter)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Within the block, time and work are those of the stage ``name``."""
    if not _listening:
        yield
        return
    meter = _listening[-1]
    meter.enter(name)
    try:
        yield
    finally:
        meter.leave()


def staged(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator of a function whose calls are the stage ``name``."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def within(*args: Any, **kwargs: Any) -> Any:
            with stage(name):
                return function(*args, **kwargs)

        return within

    return decorate


def count_work(tokens: int, head_tokens: int) -> None:
    """Count a pass of ``tokens`` through the decoder, of which ``head_tokens`` go through the head."""
    if _listening:
        current = _listening[-1].current
        current.tokens += tokens
        current.head_tokens += head_tokens
        current.passes += 1

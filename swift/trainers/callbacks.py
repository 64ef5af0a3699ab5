"""Callbacks that the trainers share: watching the folder, stopping on a signal, evaluating at the end, and following
the epoch."""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.data import get_worker_info
from transformers import TrainerCallback
from transformers.trainer_utils import IntervalStrategy

from swift.trainers.data import PromptOrder
from swift.utils.distributed import is_master
from swift.utils.logger import get_logger

logger = get_logger()


class WatchFolder(TrainerCallback):
    """Raises FileNotFoundError after a step if the folder of the run is no longer the one that it began in. Writing on
    would make a new folder with a part of the run."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._held = os.open(folder, os.O_RDONLY)  # while it is open, no other folder gets its number

    def check(self) -> None:
        """Raise FileNotFoundError if the folder was removed or replaced."""
        try:
            same = os.path.samestat(os.fstat(self._held), os.stat(self.folder))
        except FileNotFoundError:
            same = False
        if not same:
            raise FileNotFoundError(errno.ENOENT, "removed or replaced while the run wrote to it", self.folder)

    def on_step_end(self, args, state, control, **kwargs):
        self.check()

    def close(self) -> None:
        """Let go of the folder."""
        os.close(self._held)


class StopAfterStep(TrainerCallback):
    """Stops training on SIGINT or SIGTERM in any process: finishes the step and writes a checkpoint first.

    A second signal stops at once. Training stops only after a step that ``every`` divides, since a checkpoint cannot
    hold rollouts that are to be used again.
    """

    def __init__(self, every: int = 1) -> None:
        self.every = every
        self.signal: int | None = None
        self.stopped = False

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Handle the signals within the block. Outside the main thread it does nothing, as Python requires."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = {number: signal.signal(number, self._request) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _request(self, number: int, _frame: Any) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number
        if is_master() and get_worker_info() is None:  # a terminal signals all processes, data loader workers included
            logger.warning("stopping after this step, with a checkpoint; press Ctrl-C again to stop at once")

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step % self.every == 0 and self._any_process_signaled(args):
            self.stopped = control.should_save = control.should_training_stop = True
        return control

    def _any_process_signaled(self, args) -> bool:
        """True in all processes if any of them got a signal, since all must leave the loop at the same step."""
        if args.world_size == 1:
            return self.signal is not None
        signaled = torch.tensor(int(self.signal is not None), device=args.device)
        torch.distributed.all_reduce(signaled, op=torch.distributed.ReduceOp.MAX)
        return bool(signaled)


class EvaluateAtTheEnd(TrainerCallback):
    """Evaluates after the last step, if there is anything to evaluate on, however the evaluation steps fall."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step >= state.max_steps and args.eval_strategy != IntervalStrategy.NO:
            control.should_evaluate = True
        return control


class FollowEpoch(TrainerCallback):
    """Sets the epoch of the order of prompts when an epoch begins."""

    def __init__(self, order: PromptOrder) -> None:
        self.order = order

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.order.set_epoch(int(state.epoch or 0))

"""Work in turns, with the modules of the folder in PYTHONPATH.

The command line is what to do, two file descriptors and a JSON object of settings. The process writes a line of JSON
when it is ready for a turn, begins when it reads a line, and writes the turn's seconds. It ends with its input. This
file uses only names that checkouts have had for long.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any


class Turns:
    """The ends of two pipes to the process that gives the turns."""

    def __init__(self, asked: int, told: int) -> None:
        self.asked, self.told = os.fdopen(asked), os.fdopen(told, "w")
        self.began = 0.0

    def wait(self) -> bool:
        """Wait for the next turn. Returns False if there is none."""
        self._tell({"ready": True})
        more = bool(self.asked.readline())
        self.began = time.perf_counter()
        return more

    def done(self, **facts: Any) -> None:
        """Tell the seconds since the turn began."""
        seconds = time.perf_counter() - self.began
        self._tell({"seconds": seconds, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, **facts})

    def _tell(self, facts: dict[str, Any]) -> None:
        self.told.write(json.dumps(facts) + "\n")
        self.told.flush()


def train(turns: Turns, settings: dict[str, Any]) -> None:
    """Train by the flags in ``settings``. A turn is an optimizer step, from the sampling of its completions on."""
    from transformers import TrainerCallback

    from swift.cli.rlhf import main as run
    from swift.trainers.rlhf_trainer.grpo_trainer import GRPOTrainer

    class Gate(TrainerCallback):
        """Lets a step begin when it is this process's turn."""

        def on_train_begin(self, args, state, control, **kwargs):
            control.should_training_stop = not turns.wait()

        def on_step_end(self, args, state, control, **kwargs):
            turns.done()
            control.should_training_stop = not turns.wait()

    construct = GRPOTrainer.__init__

    def construct_gated(self: GRPOTrainer, *args: Any, **kwargs: Any) -> None:
        construct(self, *args, **kwargs)
        self.add_callback(Gate())

    GRPOTrainer.__init__ = construct_gated
    run(settings["flags"])


def answer(turns: Turns, settings: dict[str, Any]) -> None:
    """Answer questions by the engine of evaluate.py. A turn is all of them."""
    from bench import evaluate as bench

    folder = Path(settings["dataset_folder"]) / "annotations" / "eval"
    files = [bench.load_records([folder / name], max_samples=settings["questions"]) for name in bench.SWEEP]
    records = [record for file in files for record in file]
    policy = bench.load_policy(bench.resolve_checkpoint(settings["model"]))
    batching, threads = bench.automatic_batching(policy.model), bench.automatic_threads(policy.model)
    while turns.wait():
        texts, _ = bench.engine(policy, records, settings["max_new_tokens"], batching, threads)
        turns.done(questions=len(records), texts=hashlib.sha256(json.dumps(texts).encode()).hexdigest())


if __name__ == "__main__":
    {"train": train, "answer": answer}[sys.argv[1]](Turns(int(sys.argv[2]), int(sys.argv[3])), json.loads(sys.argv[4]))

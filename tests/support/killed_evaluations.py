"""Kill evaluations at random moments, restart them, and compare their files with those of an undisturbed evaluation.

    python -m tests.support.killed_evaluations WORLD OUTPUT KILLS

This process imports everything once. Each evaluation is a child forked from it, so a restart takes a second.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import torch

import evaluate_token_prob

NAME = "policy_train_checkpoint_token_prob"


def start(world: Path, output: Path) -> int:
    """Start a child that evaluates into ``output``, and return its process id."""
    child = os.fork()
    if child:
        return child
    words = ["--model_path", world / "policy", "--annotation_file", world / "data" / "train.json"]
    words += ["--output_dir", output, "--batch_size", 3, "--max_new_tokens", 12, "--num_workers", 2, "--no_tqdm"]
    with (output.parent / "log").open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        try:
            status = evaluate_token_prob.main([*map(str, words), "--top_k_alternatives", "2"])
        except BaseException as error:
            print(repr(error), flush=True)
            status = 1
        log.flush()
        os._exit(status)


def wait(child: int) -> None:
    """Wait for the end of the child.

    Raises:
        RuntimeError: its status is not 0.
    """
    _, status = os.waitpid(child, 0)
    if status:
        raise RuntimeError(f"an evaluation ended with status {os.waitstatus_to_exitcode(status)}")


def has_answers(partial: Path) -> bool:
    """True if the partial file holds an answer."""
    try:
        return b'"index"' in partial.read_bytes()
    except FileNotFoundError:
        return False


def await_answers(partial: Path, result: Path, deadline: float) -> None:
    """Wait until the partial file holds an answer, the result exists, or the deadline has come."""
    while not (has_answers(partial) or result.exists()) and time.perf_counter() < deadline:
        time.sleep(0.01)


def main(world: Path, output: Path, kills: int) -> None:
    """Kill ``kills`` evaluations and print the counts and comparisons as one JSON object."""
    torch.set_num_threads(1)
    began = time.perf_counter()
    wait(start(world, output / "undisturbed"))
    duration = time.perf_counter() - began
    expected = (output / "undisturbed" / f"{NAME}.json").read_bytes()

    rng = np.random.default_rng()
    place, partial = output / "killed", output / "killed" / f"{NAME}.partial.jsonl"
    killed, interrupted, identical = 0, 0, []
    while killed < kills or partial.exists() or not (place / f"{NAME}.json").exists():
        child = start(world, place)
        if killed < kills:
            if killed % 2:  # on a busy machine a moment of the clock may come before any answer
                await_answers(partial, place / f"{NAME}.json", time.perf_counter() + 4 * duration)
                time.sleep(rng.uniform(0, 0.2) * duration)
            else:
                time.sleep(rng.uniform(0.1, 0.6) * duration)
        finished, status = os.waitpid(child, os.WNOHANG if killed < kills else 0)
        if not finished:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            killed += 1
            interrupted += has_answers(partial)
        elif status:
            raise RuntimeError(f"an evaluation ended with status {os.waitstatus_to_exitcode(status)}")
        if (place / f"{NAME}.json").exists() and not partial.exists():
            identical.append((place / f"{NAME}.json").read_bytes() == expected)
            if killed < kills:
                shutil.rmtree(place)
    print(json.dumps({"kills": killed, "with_answers": interrupted, "identical": identical, "seconds": duration}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))

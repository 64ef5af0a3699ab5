"""GRPO runs that are killed at random moments and resumed, compared with undisturbed ones.

    python -m bench.kills                                        # 20 kills in each setting
    python -m bench.kills --settings plain --kills 3 --steps 12
    python -m bench.kills --model DIR --dataset FILE             # another policy and data than the demo's, untrained

A run is killed by SIGKILL and resumed until it ends, and then another one, until all kills are spent. A kill is
identical if its run ends with the bytes of the undisturbed run: weights, optimizer, schedule, random state and
completions.jsonl, and the same training log but for seconds. This process imports everything once, and each run is
forked from it, so a restart costs a second. A run that gets SIGUSR1 writes its stack, which tells the moment.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import random
import re
import shutil
import signal
import socket
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from swift.cli import rlhf
from swift.utils.errors import UserError, reports_user_errors
from swift.utils.files import read_json
from swift.utils.run_folder import trainer_state
from tools.demo_world.build import make_demo
from tools.demo_world.dataset import WorldConfig
from tools.demo_world.policy import write_policy

_WORLD = WorldConfig(patients=(6, 1, 1), eval_questions=1)
# The reward needs the random state of a checkpoint, and hardly two texts earn the same.
_REWARD = """
import random
from swift.plugin import ORM, orms


class Noisy(ORM):
    def __call__(self, completions, **columns):
        return [sum(map(text.count, "aeiou")) / (len(text) + 1) + 0.1 * random.random() for text in completions]


orms["noisy"] = Noisy
"""
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "dynamic_sampling": {"dynamic_sample": "true", "max_resample_times": 4},
    "num_iterations": {"num_iterations": 2},
    "two_processes": {"processes": 2},
}
# Moments and the functions in which a run is then. The first that fits counts.
_MOMENTS = {
    "checkpoint": {"_save_checkpoint", "_load_from_checkpoint", "_load_optimizer_and_scheduler"},
    "evaluation": {"evaluate"},
    "rollout": {"_roll_out"},
    "log": {"log", "on_step_end"},
    "update": {"training_step", "get_batch_samples"},
}
_AIMS = ("checkpoint", "anywhere", "rollout", "log", "evaluation", "anywhere")  # in turn
_KILLS_PER_RUN = 5
_ANSWER = 1.0  # seconds in which a run must write its stack
_FINAL = ("completions.jsonl", "adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state*.pth")


class Trial:
    """Runs of one setting in ``folder``.

    Args:
        flags: flags beside those that all runs have; ``processes`` is their number.
    """

    def __init__(self, folder: Path, steps: int, threads: int, flags: dict[str, Any]) -> None:
        self.folder, self.steps, self.threads = folder, steps, threads
        self.processes = flags.get("processes", 1)
        self.flags = {
            "split_dataset_ratio": 0.1,
            "external_plugins": folder / "noisy.py",
            "reward_funcs": "noisy",
            "per_device_train_batch_size": 8,
            "num_generations": 4,
            "max_completion_length": 12,
            "learning_rate": 1e-3,
            "max_steps": steps,
            "save_steps": 4,
            "eval_steps": 6,
            "use_cpu": "true",
            **{name: value for name, value in flags.items() if name != "processes"},
        }
        folder.mkdir(parents=True)
        (folder / "noisy.py").write_text(_REWARD)
        self._stacks = (folder / "stacks").open("a+")
        faulthandler.register(signal.SIGUSR1, self._stacks, all_threads=False)

    def start(self, output: Path) -> list[int]:
        """Fork the processes of a run, which resumes what ``output`` holds. Returns their ids."""
        flags = self.flags | {"output_dir": output, "resume_from_checkpoint": str(output.exists()).lower()}
        words = [str(word) for name, value in flags.items() for word in (f"--{name}", value)]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        return [self._fork(words, rank, port) for rank in range(self.processes)]

    def _fork(self, words: Sequence[str], rank: int, port: int) -> int:
        if child := os.fork():
            return child
        if self.processes > 1:
            ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": self.processes, "LOCAL_WORLD_SIZE": self.processes}
            os.environ |= {name: str(value) for name, value in ranks.items()}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
        status = 1
        try:
            with (self.folder / "log").open("a") as log:
                os.dup2(log.fileno(), 1)
                os.dup2(log.fileno(), 2)
            torch.set_num_threads(self.threads)
            status = rlhf.main(words)
        finally:
            os._exit(status)

    def finish(self, children: Sequence[int]) -> None:
        """Wait for the end of a run. Raises UserError if its status is not 0."""
        for child in children:
            if status := os.waitpid(child, 0)[1]:
                last = (self.folder / "log").read_text().strip().splitlines()[-1]
                raise UserError(f"a run ended with status {os.waitstatus_to_exitcode(status)}: {last}")

    def moment(self, child: int) -> str:
        """The moment at which a process is; "start" before its first step and between all others."""
        before = os.fstat(self._stacks.fileno()).st_size
        os.kill(child, signal.SIGUSR1)
        deadline = time.perf_counter() + _ANSWER
        while os.fstat(self._stacks.fileno()).st_size == before and time.perf_counter() < deadline:
            time.sleep(0.0005)
        self._stacks.seek(before)
        functions = set(re.findall(r" in (\w+)", self._stacks.read()))
        return next((moment for moment, within in _MOMENTS.items() if functions & within), "start")

    def kill(self, children: Sequence[int], aim: str, delay: float, *, all_of_them: bool) -> str | None:
        """Kill a run after ``delay`` seconds, at the next moment ``aim``. Returns the moment; None if the run has ended
        before. Unless ``all_of_them``, the first process alone is killed, and the others must end by themselves."""
        time.sleep(delay)
        moment, first, others = "start", children[0], list(children[1:])
        while not (ended := os.waitpid(first, os.WNOHANG))[0]:
            moment = self.moment(first)
            if aim in ("anywhere", moment):
                break
            time.sleep(0.001)
        if ended[0] and not os.WIFSIGNALED(ended[1]):  # Python may crash over its stack, which is a kill like others
            self.finish(others)
            if ended[1]:
                raise UserError(
                    f"a run ended with status {os.waitstatus_to_exitcode(ended[1])}; see {self.folder / 'log'}"
                )
            return None
        at_once = others if all_of_them or moment == "start" else []  # at the start they are not joined yet
        for child in at_once if ended[0] else [first, *at_once]:
            os.kill(child, signal.SIGKILL)
        for child in others if ended[0] else children:
            os.waitpid(child, 0)
        return moment

    def results(self, output: Path) -> dict[str, bytes]:
        """The contents of what a finished run must leave, by name."""
        checkpoint = output / f"checkpoint-{self.steps}"
        files = [path for name in _FINAL for place in (output, checkpoint) for path in place.glob(name)]
        history = [
            {name: value for name, value in entry.items() if "second" not in name and "runtime" not in name}
            for entry in trainer_state(checkpoint)["log_history"]
        ]
        return {path.name: path.read_bytes() for path in files} | {"log_history": json.dumps(history).encode()}


def run_trial(trial: Trial, kills: int, rng: random.Random) -> dict[str, Any]:
    """Kill and resume runs until ``kills`` are spent. Returns the counts, the moments of the kills, and the names of
    what differed."""
    began = time.perf_counter()
    trial.finish(trial.start(trial.folder / "undisturbed"))
    seconds = time.perf_counter() - began
    expected = trial.results(trial.folder / "undisturbed")
    spent, identical, in_run = 0, 0, 0
    moments: Counter[str] = Counter()
    differing: set[str] = set()
    output = trial.folder / "killed"
    while spent < kills or output.exists():
        children = trial.start(output)
        if spent < kills and in_run < _KILLS_PER_RUN:
            aim, delay = _AIMS[spent % len(_AIMS)], rng.uniform(0.1, 0.5) * seconds
            if moment := trial.kill(children, aim, delay, all_of_them=spent % 2 == 0):
                moments[moment] += 1
                spent, in_run = spent + 1, in_run + 1
                continue
        else:
            trial.finish(children)
        found = trial.results(output)
        wrong = {name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)}
        identical += 0 if wrong else in_run
        differing |= wrong
        in_run = 0
        shutil.rmtree(output)
    counts = {"kills": spent, "identical": identical, "moments": dict(sorted(moments.items()))}
    return counts | ({"differing": sorted(differing)} if differing else {})


def make_small_world(folder: Path) -> tuple[Path, Path]:
    """Write a demo world and an untrained policy. Returns the folder of the policy and the training file."""
    make_demo(folder / "data", _WORLD, workers=1)
    dataset = folder / "data" / "annotations" / "train.json"
    records = read_json(dataset, "make the world again", list)
    write_policy(folder / "policy", (turn["content"] for record in records for turn in record["messages"]))
    return folder / "policy", dataset


@reports_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run the trials and print one JSON object per setting. Returns 1 if a kill left a trace."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--kills", type=int, default=20, help="kills in each setting")
    parser.add_argument("--steps", type=int, default=60, help="optimizer steps of a run; a multiple of 4")
    parser.add_argument("--threads", type=int, default=2, help="threads of each process")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--model", type=Path, help="a policy, with --dataset; default: the demo's, untrained")
    parser.add_argument("--dataset", type=Path, help="training records, with --model; default: a small demo world")
    parser.add_argument("--keep", type=Path, help="an absent folder in which the runs stay; default: a temporary one")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)  # a process with OpenMP threads cannot be forked
    traces = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        model, dataset = arguments.model, arguments.dataset
        if model is None or dataset is None:
            model, dataset = make_small_world(folder / "world")
        for name in arguments.settings:
            flags = SETTINGS[name] | {"model": model, "dataset": dataset}
            trial = Trial(folder / name, arguments.steps, arguments.threads, flags)
            counts = run_trial(trial, arguments.kills, random.Random(arguments.seed))
            print(json.dumps({"setting": name, **counts}), flush=True)
            traces += counts["kills"] - counts["identical"]
    return int(traces > 0)


if __name__ == "__main__":
    raise SystemExit(main())

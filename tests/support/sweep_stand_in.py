"""Stand-in for the trainer and for evaluate.py in tests of train_loop.sh. It writes their files and obeys signals,
within milliseconds. It is called with the words that would follow ``python``.

Environment:
    CALLS           file that takes one JSON line per call
    FAIL            runs with this text in their folder's name fail after their first step
    LUCK            end of the message of such a failure
    DIE             runs with this text in their folder's name kill themselves after their first step, the first time
    DIE_EVALUATING  runs with this text in their folder's name kill themselves when evaluated
    STEP_SECONDS    duration of a step
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

from tools.sweeps.runs import flags_of

STEPS = 4
TRUTH = "<think>There is a small left pleural effusion.</think><answer>yes</answer>"
WRONG = "<think>The heart is large.</think><answer>no</answer>"


def note_call(flags: dict, began: float) -> None:
    call = {"flags": flags, "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"), "began": began, "ended": time.time()}
    with open(os.environ["CALLS"], "a", encoding="utf-8") as file:
        file.write(json.dumps(call) + "\n")


def matches(variable: str, folder: Path) -> bool:
    part = os.environ.get(variable)
    return bool(part) and part in folder.name


def save(folder: Path, step: int) -> None:
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir(exist_ok=True)
    history = [{"step": n, "reward": n / STEPS, "completion_length": 20 + n} for n in range(1, step + 1)]
    state = {"global_step": step, "max_steps": STEPS, "log_history": history}
    (checkpoint / "trainer_state.json").write_text(json.dumps(state))


def train(words: list[str]) -> int:
    flags, began = flags_of(words), time.time()
    folder = Path(flags["output_dir"][0])
    folder.mkdir(parents=True, exist_ok=True)
    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
    done = [int(path.name.split("-")[1]) for path in folder.glob("checkpoint-*")]
    first = max(done, default=0) + 1 if flags.get("resume_from_checkpoint") == ("true",) else 1
    environment = {name: os.environ[name] for name in ("FREEZE_NON_VISION_PARAMS", "KG_TEXT") if name in os.environ}
    (folder / "args.json").write_text(json.dumps({"command": ["rlhf.py", *words], "environment": environment}))
    log = folder / "completions.jsonl"
    kept = log.read_text().splitlines()[: first - 1] if log.exists() else []
    log.write_text("".join(line + "\n" for line in kept))
    for step in range(first, STEPS + 1):
        time.sleep(float(os.environ.get("STEP_SECONDS", 0)))
        with open(log, "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "seed": flags["seed"]}) + "\n")
        if matches("FAIL", folder):
            print("error: out of luck" + os.environ.get("LUCK", ""), file=sys.stderr)
            return 3
        save(folder, step)
        if matches("DIE", folder) and first == 1:
            note_call(flags, began)
            os.kill(os.getpid(), signal.SIGKILL)
        if stopped and step < STEPS:
            note_call(flags, began)
            return 130
    note_call(flags, began)
    return 0


def evaluate(words: list[str]) -> int:
    flags, began = flags_of(words), time.time()
    run, output = Path(flags["model_path"][0]), Path(flags["output_dir"][0])
    output.mkdir(parents=True, exist_ok=True)
    if not Path(flags["dataset_folder"][0]).is_dir():
        print("error: no questions", file=sys.stderr)
        return 2
    path = output / f"{run.name}_results.json"
    places = ("model_path", "output_dir", "batch_size", "no_tqdm", "resume")
    settings = {name: " ".join(values) for name, values in flags.items() if name not in places}
    if path.exists() and flags.get("resume") != ("false",) and json.loads(path.read_text())["settings"] != settings:
        print(f"error: {path} holds answers of other settings", file=sys.stderr)
        return 2
    if matches("DIE_EVALUATING", run):
        os.kill(os.getpid(), signal.SIGKILL)
    good = 4 if "uniform_8_" in run.name else 2
    results = [
        {
            "id": n,
            "idx": n,
            "subject_id": f"p{n // 2}",
            "question": "Is there an effusion?",
            "answer": ["yes"],
            "explanation": TRUTH,
            "generated_text": TRUTH if n < good else WRONG,
            "num_tokens": 9,
        }
        for n in range(6)
    ]
    document = {"dataset": "test_basic_vqa", "checkpoint": run.name, "settings": settings, "results": results}
    path.write_text(json.dumps(document))
    note_call(flags, began)
    return 0


if __name__ == "__main__":
    call = sys.argv[1:]
    sys.exit(evaluate(call[1:]) if call[0].endswith("evaluate.py") else train(call[call.index("swift.cli.rlhf") + 1 :]))

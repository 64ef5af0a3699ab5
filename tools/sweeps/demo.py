"""The demo world in place of the published data: its settings for train.sh and train_loop.sh, and its training sets."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from swift.utils.errors import UserError
from tools.sweeps.jobs import ROOT

PUBLISHED_DATA = Path("data/MIMIC-VQA-CoT")
DEMO_ANNOTATIONS = "data/demo/annotations"
DEMO_POOL = f"{DEMO_ANNOTATIONS}/valid.json"
DEMO_MODEL = "output/demo/sft"
DIFFICULTY = Path("output/demo/difficulty")  # the demo policy's own answers to the pool

# Sizes that a laptop can train.
DEMO_DEFAULTS = {
    "LEARNING_RATE": "5e-4",
    "BETA": "0.03",
    "BATCH": "96",
    "MAX_COMPLETION_LENGTH": "64",
    "DTYPE": "float32",
    "DYNAMIC_SAMPLE": "false",
}
DEMO_RUN_DEFAULTS = {**DEMO_DEFAULTS, "MAX_STEPS": "100", "OUTPUT_DIR": "output/demo_train"}
DEMO_SWEEP_DEFAULTS = {
    **DEMO_DEFAULTS,
    "SIZES": "64 128",
    "MAX_STEPS": "16",
    "SAVE_STEPS": "4",
    "EVALUATE": "true",
    "EVAL_SAMPLES": "100",
    "EVAL_BATCH": "50",
}


def uses_demo(environment: Mapping[str, str], named: Sequence[str]) -> bool:
    """True if DEMO is true, or if the published data are missing and none of the variables ``named`` is set."""
    missing = not any(environment.get(name) for name in named) and not (ROOT / PUBLISHED_DATA / "annotations").is_dir()
    return missing or environment.get("DEMO") == "true"


def demo_environment(environment: Mapping[str, str], defaults: Mapping[str, str]) -> dict[str, str]:
    """The environment with the demo's policy and data, and its defaults for variables that are unset or empty."""
    own = {name: value for name, value in environment.items() if value}
    return {**defaults, **own, "MODEL": DEMO_MODEL, "ANNOTATIONS": DEMO_ANNOTATIONS, "DATASET": DEMO_POOL}


def make_demo_start() -> None:
    """Make the demo world and its policy after SFT unless they exist. Raises UserError if that fails."""
    _run([str(ROOT / "tools" / "demo.sh"), "start"])


def sample_demo(types: Sequence[str], sizes: Sequence[str], python: str) -> None:
    """Sample the demo's training sets. The demo's policy answers the pool first, and its wrong answers are the hard
    items. Raises UserError if a command fails."""
    make_demo_start()
    if not _answers():
        _run([python, "evaluate.py", "--model_path", DEMO_MODEL, "--annotation_file", DEMO_POOL,
              "--output_dir", str(DIFFICULTY), "--batch_size", "50", "--max_new_tokens", "64"])  # fmt: skip
    _run([python, "-m", "tools.sample_data", "--source", DEMO_POOL, "--results", *map(str, _answers()),
          "--root", str(Path(DEMO_ANNOTATIONS).parent), "--policies", *types, "--sizes", *sizes, "--seeds", "0",
          "--overwrite"])  # fmt: skip


def _answers() -> list[Path]:
    return sorted(DIFFICULTY.glob("*_valid_*_results.json"))


def _run(command: Sequence[str]) -> None:
    status = subprocess.run(command, cwd=ROOT, check=False).returncode
    if status:
        raise UserError(f"the demo world is not ready: {' '.join(command[:3])} ... ended with status {status}; "
                        "see the messages above")  # fmt: skip

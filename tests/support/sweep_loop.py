"""A folder to run train_loop.sh in, with a stand-in for the trainer and for evaluate.py (sweep_stand_in.py)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from tests.support.builders import ROOT

TAG = "{type}_{size}_lr6e-5_g8_beta0.5_r1v_acc-kg_jac_seed{seed}"
PYTHON = """#!/usr/bin/env bash
case "$*" in
*swift.cli.rlhf* | *evaluate.py*) exec {real} -m tests.support.sweep_stand_in "$@" ;;
*) exec {real} "$@" ;;
esac
"""


class Loop:
    """A folder with a blank in its name, and train_loop.sh in it: 2 sizes, 1 type, 2 seeds unless told otherwise."""

    def __init__(self, folder: Path):
        self.folder = folder / "my data"
        self.sweep, self.calls_file = self.folder / "the sweep", self.folder / "calls.jsonl"
        (self.folder / "model").mkdir(parents=True)
        (self.folder / "set" / "annotations" / "uniform").mkdir(parents=True)
        for size in (4, 8):
            self.data(f"uniform/{size}.json").write_text(f"[{size}]")
        python = self.folder / "python"
        python.write_text(PYTHON.format(real=sys.executable))
        python.chmod(0o755)
        self.environment = {
            **{name: value for name, value in os.environ.items() if name not in ("KG_TEXT", "REXKG_EXTRACTOR")},
            "PYTHON": str(python),
            "ANNOTATIONS": str(self.folder / "set" / "annotations"),
            "MODEL": str(self.folder / "model"),
            "SWEEP": str(self.sweep),
            "LOGS": str(self.folder / "logs"),
            "CALLS": str(self.calls_file),
            "SIZES": "4 8",
            "TYPES": "uniform",
            "SEEDS": "0 1",
        }

    def data(self, name: str) -> Path:
        return self.folder / "set" / "annotations" / name

    def start(self, *flags: str, script: Path = ROOT / "train_loop.sh", **settings: str) -> subprocess.Popen:
        """Start the script somewhere else than where it is."""
        return subprocess.Popen(
            [str(script), *flags], cwd=self.folder, env={**self.environment, **settings}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip

    def run(self, *flags: str, **more) -> tuple[int, str]:
        """Exit status, and all that was printed."""
        process = self.start(*flags, **more)
        out, err = process.communicate(timeout=60)
        return process.returncode, out + err

    def calls(self) -> list[dict]:
        lines = self.calls_file.read_text().splitlines() if self.calls_file.exists() else []
        return [json.loads(line) for line in lines]

    def tag(self, size: int, seed: int, type: str = "uniform") -> str:
        return TAG.format(type=type, size=size, seed=seed)

    def statuses(self) -> dict[str, str]:
        return {tag: run["status"] for tag, run in json.loads((self.sweep / "sweep.json").read_text())["runs"].items()}

    def steps(self, tag: str) -> list[int]:
        lines = (self.sweep / tag / "completions.jsonl").read_text().splitlines()
        return [json.loads(line)["step"] for line in lines]

    def wait_for(self, condition, seconds: float = 20) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "waited in vain"
            time.sleep(0.02)

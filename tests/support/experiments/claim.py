"""A small plan of the experiment and results of runs that were never made."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.claim.plan import PLAN_FILE, ClaimPlan, PlanCell, read_plan
from experiments.claim.tables import AskedQuestion, write_asked_questions, write_run_table

QUESTIONS_PER_PATIENT = 3
FILES = ("basic", "region", "compare")
Figures = Callable[[PlanCell, int, int], dict[str, float]]  # of a cell, a seed and a question at home


def small_settings(folder: Path) -> dict[str, Any]:
    """Two cells and two seeds, in ``folder``."""
    settings = json.loads(PLAN_FILE.read_text())
    settings["places"] = {name: str(folder / name) for name in ("data", "policy", "output")}
    settings["seeds"] = [1, 2]
    settings["grid"] = [
        {"rewards": ["accuracy", "graph"], "advantages": ["sum"], "samplings": ["uniform"], "sizes": [16]}
    ]
    settings["sft"]["size"] = 16
    wanted = {"graph reward": {}, "GRPO against SFT": {"size": "16", "sampling": "uniform"}}
    settings["contrasts"] = [entry for entry in settings["contrasts"] if entry["name"] in wanted]
    for entry in settings["contrasts"]:
        entry["plus"] |= wanted[entry["name"]]
    return settings


def small_plan(folder: Path) -> tuple[Path, ClaimPlan]:
    """The plan of `small_settings`, and its file."""
    path = folder / "plan.json"
    path.write_text(json.dumps(small_settings(folder)))
    return path, read_plan(path)


def asked_questions(world: str, patients: int) -> list[AskedQuestion]:
    """Three questions about each patient, one per file. Comparisons are about two images; yes is right for region."""
    count = patients * QUESTIONS_PER_PATIENT
    places = [(number, number // QUESTIONS_PER_PATIENT, FILES[number % 3]) for number in range(count)]
    return [
        AskedQuestion(world, str(number), f"demo-{patient}", file, "kind", "verify", "2" if file == "compare" else "1",
                      "yes" if file == "region" else "")
        for number, patient, file in places
    ]  # fmt: skip


def write_results(folder: Path, plan: ClaimPlan, figures: Figures, patients: int = 4) -> None:
    """Tables of all runs of the plan. The figures of a run stand for all of its conditions."""
    home, shifted = asked_questions("home", patients), asked_questions("shifted", patients)
    write_asked_questions(folder, [*home, *shifted])
    for run in plan.runs():
        rows = []
        for condition in ("home", "blank", "shuffled", "sampled", "shifted"):
            rows += [(condition, row.question, figures(run.cell, run.seed or 0, int(row.question))) for row in home]
        record = {"tag": run.tag, "seconds": 60, "curve": [{"step": 1, "reward": 0.5, "completion_length": 20}]}
        write_run_table(folder, record, rows)

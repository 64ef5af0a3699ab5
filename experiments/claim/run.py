"""Carry out the plan, stage by stage; run.sh starts this command.

    python -m experiments.claim.run --dry-run
    python -m experiments.claim.run --stages worlds start

Runs are trained by train_loop.sh, seed by seed, so that an experiment that is stopped early has whole seeds. What is
done already is skipped: worlds by their manifests, training and measurement by their files. JOBS runs share the cores.
The seconds of each stage are added to results/machine.json.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from experiments.claim.plan import SFT, WARM_START, CellRun, ClaimPlan, PlanCell, plan_parser, read_plan
from experiments.claim.runs import finished_checkpoint, run_folder
from experiments.claim.tables import HOME
from swift.utils.errors import UserError, reports_user_errors
from swift.utils.files import try_read_json, write_json
from tools.sweeps.jobs import ROOT
from tools.sweeps.settings import whole_number

EXPERIMENT_STAGES = ("worlds", "start", "difficulty", "samples", "sweeps", "sft", "measure", "analyze")
DOCUMENT = "docs/experiment.md"


@dataclass(frozen=True)
class ShellCommand:
    """A command with its further environment variables. ``beside`` others of its stage if they may run together."""

    words: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    beside: bool = False

    def __str__(self) -> str:
        variables = [f"{name}={shlex.quote(value)}" for name, value in self.environment.items()]
        return " ".join([*variables, shlex.join(self.words)])


def commands_of(stage: str, plan: ClaimPlan, plan_file: Path, results: Path, jobs: int) -> list[ShellCommand]:
    """The commands of a stage that are left to do."""
    python = os.environ.get("PYTHON") or sys.executable
    module = [python, "-m"]
    own = ["--plan", str(plan_file), "--results", str(results)]
    if stage == "worlds":
        return [
            ShellCommand([*module, "tools.make_demo", "--output", str(plan.world(name)), "--workers", str(jobs), *flags,
                          *(["--policy", plan["places"]["policy"]] if name == HOME else [])])
            for name, flags in plan["worlds"].items()
        ]  # fmt: skip
    if stage == "start":
        return [] if _is_done(plan, WARM_START, None) else list(_warm_start(module, plan))
    if stage == "difficulty":
        return [ShellCommand([python, "evaluate.py", "--model_path", str(plan.output / WARM_START), "--annotation_file",
                              str(_annotations(plan) / "valid.json"), "--output_dir", str(plan.output / stage),
                              *plan[stage]])]  # fmt: skip
    if stage == "samples":
        return list(_sampling(module, plan))
    if stage == "sweeps":
        return list(_sweeps(plan, jobs))
    if stage == "sft":
        return [
            _sft(module, run_folder(plan, CellRun(PlanCell(baseline=SFT), seed)), beside=True, flags=[
                "--model", str(plan.output / WARM_START), "--seed", str(seed), "--dataset", str(_sft_data(plan, seed)),
                *plan["sft"]["flags"],
            ])
            for seed in plan.seeds if not _is_done(plan, SFT, seed)
        ]  # fmt: skip
    if stage == "measure":
        return [
            ShellCommand([*module, "experiments.claim.measure", "--part", f"{part}/{jobs}", *own], beside=True)
            for part in range(1, jobs + 1)
        ]
    return [ShellCommand([*module, "experiments.claim.analyze", *own, "--write", DOCUMENT])]


def _annotations(plan: ClaimPlan) -> Path:
    return plan.world(HOME) / "annotations"


def _is_done(plan: ClaimPlan, baseline: str, seed: int | None) -> bool:
    return finished_checkpoint(run_folder(plan, CellRun(PlanCell(baseline=baseline), seed))) is not None


def _warm_start(module: Sequence[str], plan: ClaimPlan) -> Iterator[ShellCommand]:
    """SFT in phases, each from the policy of the one before. The last one makes the warm start."""
    model = Path(plan["places"]["policy"])
    last = run_folder(plan, CellRun(PlanCell(baseline=WARM_START), None))
    for number, phase in enumerate(plan["start"], start=1):
        folder = last if number == len(plan["start"]) else last.with_name(f"{last.name}-{number}")
        data = ["--model", str(model), "--dataset", str(_annotations(plan) / phase["records"])]
        yield _sft(module, folder, beside=False, flags=[*data, *phase["flags"]])
        model = folder


def _sft(module: Sequence[str], folder: Path, *, beside: bool, flags: Sequence[str]) -> ShellCommand:
    """SFT into a folder, from its beginning."""
    place = ["--output_dir", str(folder), "--overwrite_output_dir", "true", "--check_images", "false"]
    return ShellCommand([*module, "swift.cli.sft", *flags, *place], beside=beside)


def _sft_data(plan: ClaimPlan, seed: int) -> Path:
    return _annotations(plan) / plan.policy_name(plan["sft"]["sampling"], seed) / f"{plan['sft']['size']}.json"


def _sampling(module: Sequence[str], plan: ClaimPlan) -> Iterator[ShellCommand]:
    """Training sets of all cells, one command per size."""
    needed = {(cell.size, cell.sampling) for cell in plan.cells} | {(str(plan["sft"]["size"]), plan["sft"]["sampling"])}
    for size, group in itertools.groupby(sorted(needed), key=lambda pair: pair[0]):
        answers = sorted((plan.output / "difficulty").glob("*_valid_*results.json"))
        yield ShellCommand([*module, "tools.sample_data", "--source", str(_annotations(plan) / "valid.json"),
                            "--results", *map(str, answers), "--root", str(plan.world(HOME)), "--sizes", size,
                            "--policies", *(sampling for _, sampling in group), "--seeds", *map(str, plan.seeds),
                            "--overwrite"])  # fmt: skip


def _sweeps(plan: ClaimPlan, jobs: int) -> Iterator[ShellCommand]:
    """One sweep per seed, block of the grid and advantage."""
    for seed, block in itertools.product(plan.seeds, plan["grid"]):
        for advantage in block["advantages"]:
            environment = {
                **plan["grpo"],
                "MODEL": str(plan.output / WARM_START),
                "ANNOTATIONS": str(_annotations(plan)),
                "SWEEP": str(plan.output / advantage),
                "LOGS": str(plan.output / "logs"),
                "REWARD_SETS": ", ".join(plan["rewards"][name] for name in block["rewards"]),
                "TYPES": " ".join(plan.policy_name(sampling, seed) for sampling in block["samplings"]),
                "SIZES": " ".join(map(str, block["sizes"])),
                "SEEDS": str(seed),
                "JOBS": str(jobs),
            }
            yield ShellCommand(["./train_loop.sh", *plan["advantages"][advantage]], environment)


def execute(commands: Sequence[ShellCommand], threads: int, jobs: int) -> int:
    """Run the commands of a stage, those that may side by side. Returns the first status that is not 0, or 0.

    A sweep in which some runs failed (status 1) does not keep the next one from starting. Any other failure does.
    """
    shared = {"OMP_NUM_THREADS": str(threads), "GOMP_SPINCOUNT": "100"} if jobs > 1 else {}

    def start(command: ShellCommand) -> int:
        print(f"$ {command}", flush=True)
        environment = {**shared, **os.environ, **command.environment}
        return subprocess.run(command.words, cwd=ROOT, env=environment, check=False).returncode

    if commands and all(command.beside for command in commands):
        with ThreadPoolExecutor(jobs) as pool:
            return next((status for status in list(pool.map(start, commands)) if status), 0)
    worst = 0
    for command in commands:
        status = start(command)
        worst = worst or status
        if status not in (0, 1):
            break
    return worst


def note_time(results: Path, stage: str, seconds: float, jobs: int) -> None:
    """Add the seconds of a stage to machine.json."""
    path = results / "machine.json"
    noted = try_read_json(path) or {"seconds": {}}
    noted["seconds"][stage] = round(noted["seconds"].get(stage, 0) + seconds)
    facts = {"cpu": _processor(), "cores": os.cpu_count(), "jobs": jobs, "python": platform.python_version()}
    write_json(path, {**noted, **facts})


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Flags of the command."""
    parser = plan_parser("run", "Carry out the plan.")
    parser.add_argument("--stages", nargs="+", choices=EXPERIMENT_STAGES, default=EXPERIMENT_STAGES, metavar="STAGE",
                        help=f"stages to carry out, of {', '.join(EXPERIMENT_STAGES)} (default: all)")  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="print the commands and do nothing")
    return parser.parse_args(argv)


@reports_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    arguments = parse_arguments(argv)
    plan = read_plan(arguments.plan)
    jobs = whole_number("JOBS", os.environ.get("JOBS") or "2", 1)
    threads = max(1, (os.cpu_count() or 1) // jobs)
    worst = 0
    for stage in (stage for stage in EXPERIMENT_STAGES if stage in arguments.stages):
        commands = commands_of(stage, plan, arguments.plan, arguments.results, jobs)
        if arguments.dry_run:
            print("\n".join([f"# {stage}", *map(str, commands)]))
            continue
        began = time.perf_counter()
        status = execute(commands, threads, jobs)
        if stage != "analyze":  # which has written the document by then
            note_time(arguments.results, stage, time.perf_counter() - began, jobs)
        if status and (status, stage) != (1, "sweeps"):
            raise UserError(f"stage {stage} ended with status {status}; see the messages above, then start again")
        worst = worst or status
    return worst


if __name__ == "__main__":
    sys.exit(main())

"""Run a sweep: one GRPO run per combination of size, sampling policy, seed, learning rate, G, beta and set of rewards.

    python -m tools.sweep --dry-run               print the plan and do nothing; train_loop.sh calls this command
    python -m tools.sweep --top_k 50              further flags go to swift.cli.rlhf

The settings are environment variables; --help and docs/sweeps.md list them. Finished runs are skipped and broken ones
resumed. A failing run is noted and the others still run. SIGINT, SIGTERM or SIGHUP stops the sweep: its runs finish
their step and write a checkpoint. A second signal stops them at once, a third one kills them. Exit status: 0 if every
run is finished, 1 if some failed, 130 after an interrupt. <SWEEP>/sweep.json holds every run that was ever planned for
the folder, and its state.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

from swift.utils.errors import UserError, reports_user_errors
from swift.utils.flag_limits import CommandParser
from tools.reports.tables import align
from tools.sweeps.commands import export_program_variables
from tools.sweeps.demo import DEMO_SWEEP_DEFAULTS, demo_environment, sample_demo, uses_demo
from tools.sweeps.grid import plan_sweep
from tools.sweeps.jobs import ROOT, locked
from tools.sweeps.runs import PlannedRun, next_stage
from tools.sweeps.scheduler import Ledger, Scheduler, job_slots
from tools.sweeps.settings import (
    EvaluationSettings,
    RunSettings,
    SweepSettings,
    describe_settings,
    read_settings,
    seconds_setting,
)

NOT_VARIED = ("type", "size", "seed", "dataset", "output_dir", "resume")  # a sweep sets these itself


def print_plan(runs: Sequence[PlannedRun], data_later: bool) -> int:
    """Print each run's next stage, the first run's commands, and reasons for runs that cannot start. The status is 1 if
    there are such runs. With ``data_later``, missing data are no such reason: they will be made."""
    rows, problems = [["run", "next", "data"]], []
    for run in runs:
        try:
            stage = "planned" if data_later and not run.data.exists() else next_stage(run).value
        except UserError as error:
            stage = "fails"
            problems.append(f"fails: {run.tag}: {error}")
        rows.append([run.tag, stage, str(run.data)])
    commands = [shlex.join(command) for command in (runs[0].train, runs[0].evaluate) if command]
    print("\n\n".join([align(rows), *commands, *problems]))
    return int(bool(problems))


def prepare_demo(sweep: SweepSettings, python: str, dry_run: bool) -> None:
    """Sample the demo's training sets. A dry run samples none."""
    print("training on the demo world", file=sys.stderr)
    if dry_run:
        print("a dry run samples no training sets: missing ones would be made first", file=sys.stderr)
    else:
        sample_demo(sweep.types.split(), sweep.sizes.split(), python)


def work_through(plan: Sequence[PlannedRun], sweep: SweepSettings, slots: deque[str | None]) -> int:
    """Train and evaluate the runs of a plan, then summarize them if they are evaluated. Returns the exit status."""
    folder, logs = Path(sweep.sweep), Path(sweep.logs)
    status_seconds = seconds_setting("STATUS_SECONDS", sweep.status_seconds)
    with locked(folder) as lock:
        logs.mkdir(parents=True, exist_ok=True)
        scheduler = Scheduler(plan, Ledger(folder), logs, slots, lock, status_seconds)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, scheduler.stop)
        status = scheduler.work()
    if sweep.evaluate == "true" and not scheduler.stops:
        summary = subprocess.run([sys.executable, "-m", "tools.summarize", folder], cwd=ROOT, check=False)
        status = status or int(summary.returncode != 0)
    return status


def parse_arguments(argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """Flags of the command, and those for the training command."""
    varied = "\n".join(
        line for line in describe_settings(RunSettings).splitlines() if line.split()[0].lower() not in NOT_VARIED
    )
    parser = CommandParser(
        prog="python -m tools.sweep",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s [--dry-run] [flags of swift.cli.rlhf]",
        epilog=f"environment variables of the sweep:\n{describe_settings(SweepSettings)}\n\n"
        f"of each run:\n{varied}\n\nof each evaluation:\n{describe_settings(EvaluationSettings)}",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the plan and do nothing")
    return parser.parse_known_args(argv)


def sweep_environment() -> tuple[Mapping[str, str], bool]:
    """The environment with the demo's settings if the sweep runs on the demo world, and whether it does."""
    demo = uses_demo(os.environ, ("ANNOTATIONS", "MODEL"))
    return (demo_environment(os.environ, DEMO_SWEEP_DEFAULTS) if demo else os.environ), demo


@reports_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Plan the sweep from the environment, then print the plan or work through it."""
    arguments, training_flags = parse_arguments(argv)
    environment, demo = sweep_environment()
    kinds = (SweepSettings, RunSettings, EvaluationSettings)
    sweep, run, evaluation = (read_settings(kind, environment) for kind in kinds)
    python = export_program_variables(environment)
    if demo:
        prepare_demo(sweep, python, arguments.dry_run)
    if not (arguments.dry_run or Path(run.model).exists()):
        raise UserError(f"the checkpoint {run.model} does not exist; put it there, or name another MODEL")
    slots = job_slots(sweep.gpus.split(), sweep.jobs)
    plan = plan_sweep(sweep, run, evaluation, python, training_flags)
    if arguments.dry_run:
        return print_plan(plan, data_later=demo)
    return work_through(plan, sweep, slots)


if __name__ == "__main__":
    sys.exit(main())

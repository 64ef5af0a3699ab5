"""Start one GRPO run from settings in the environment; train.sh calls this command.

    SIZE=2000 TYPE=uniform BETA=0.04 python -m tools.train
    python -m tools.train --deepspeed zero2        flags go to swift.cli.rlhf

--help and docs/sweeps.md list the settings. When the run ends, training.html is written into its folder. Ctrl-C and
other signals are passed on to the run.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from swift.utils.endings.launched import ERROR_FILE
from swift.utils.errors import INTERRUPTED, UserError, reports_user_errors
from swift.utils.files import try_read_json
from swift.utils.flag_limits import CommandParser
from tools.reports.training_page import leave_training_page
from tools.sweeps.commands import export_program_variables, find_data, training_command
from tools.sweeps.demo import DEMO_RUN_DEFAULTS, PUBLISHED_DATA, demo_environment, make_demo_start, uses_demo
from tools.sweeps.jobs import end_with_parent
from tools.sweeps.runs import flags_of
from tools.sweeps.settings import RunSettings, describe_settings, read_settings


def read_run() -> tuple[RunSettings, str]:
    """The run's settings with its data and folder, and the Python to train it with. The demo world is made if the run
    is on it. Raises UserError if data or policy are missing."""
    environment = os.environ
    demo = uses_demo(environment, ("DATASET", "ANNOTATIONS", "MODEL"))
    if demo:
        environment = demo_environment(environment, DEMO_RUN_DEFAULTS)
    python = export_program_variables(environment)
    run = read_settings(RunSettings, environment)
    run = replace(
        run,
        dataset=run.dataset or find_data(run.annotations, run.type, run.size),
        output_dir=run.output_dir or f"output/{run.type}_{run.size}",
    )
    if demo:
        if not os.environ.get("DEMO"):
            print(f"{PUBLISHED_DATA} does not exist: training on the demo world", file=sys.stderr)
        make_demo_start()
        return run, python
    for needed in (run.dataset, run.model):
        if not Path(needed).exists() and not Path(needed.partition("#")[0]).is_file():
            raise UserError(f"{needed} does not exist; put it there, or name DATASET and MODEL")
    return run, python


def run_command(command: Sequence[str], more: Mapping[str, str] | None = None) -> int:
    """Run a command in a session of its own and pass signals on to it, so that a terminal's Ctrl-C reaches it once.
    ``more`` is added to its environment. Returns its exit status, 128 and the number of the signal if one has killed
    it."""
    environment = {**os.environ, **(more or {})}
    with subprocess.Popen(command, env=environment, start_new_session=True, preexec_fn=end_with_parent) as process:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda received, _: process.send_signal(received))
        status = process.wait()
    return status if status >= 0 else 128 - status


def run_launcher(command: Sequence[str]) -> int:
    """Run torchrun's command as :func:`run_command`. If it fails, the line of the process that failed first is printed
    once more, since torchrun's own words follow it."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "error.json"
        status = run_command(command, {ERROR_FILE: str(file)})
        message = (try_read_json(file) or {}).get("message")
    line = message.get("message") if isinstance(message, dict) else None
    if status not in (0, INTERRUPTED) and line:
        print(line, file=sys.stderr)
    return status


@reports_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run the training command, then write the page of the run. Returns the run's exit status."""
    parser = CommandParser(
        prog="python -m tools.train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s [flags of swift.cli.rlhf]",
        epilog=f"environment variables:\n{describe_settings(RunSettings)}",
    )
    _, training_flags = parser.parse_known_args(argv)
    run, python = read_run()
    command = [*training_command(run, python), *training_flags]
    os.environ.setdefault("CHEX_RESUME_ADVICE", f"RESUME=true OUTPUT_DIR={run.output_dir} and the same settings")
    status = run_command(command) if run.nproc == "1" else run_launcher(command)
    folder = Path(flags_of(command).get("output_dir", [run.output_dir])[0])
    if status in (0, INTERRUPTED):
        leave_training_page(folder)
    return status


if __name__ == "__main__":
    sys.exit(main())

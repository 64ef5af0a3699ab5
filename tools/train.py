"""Start one GRPO run from settings in the environment; train.sh calls this command.

    SIZE=2000 TYPE=uniform BETA=0.04 python -m tools.train
    python -m tools.train --deepspeed zero2        flags go to swift.cli.rlhf

--help and docs/sweeps.md list the settings. This process becomes the training command.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from swift.utils.errors import UserError, reports_user_errors
from tools.sweeps.commands import export_program_variables, find_data, training_command
from tools.sweeps.demo import DEMO_RUN_DEFAULTS, PUBLISHED_DATA, demo_environment, make_demo_start, uses_demo
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
        if not Path(needed).exists():
            raise UserError(f"{needed} does not exist; put it there, or name DATASET and MODEL")
    return run, python


@reports_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Become the training command."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        usage="%(prog)s [flags of swift.cli.rlhf]",
        epilog=f"environment variables:\n{describe_settings(RunSettings)}",
    )
    _, training_flags = parser.parse_known_args(argv)
    run, python = read_run()
    command = [*training_command(run, python), *training_flags]
    os.environ.setdefault("CHEX_RESUME_ADVICE", f"RESUME=true OUTPUT_DIR={run.output_dir} and the same settings")
    os.execvp(command[0], command)


if __name__ == "__main__":
    sys.exit(main())

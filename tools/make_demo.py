"""Make the demo world: drawn chest X-rays with known findings, and questions about them in the real schema.

    python -m tools.make_demo --output data/demo            # about half a minute on two cores
    python -m tools.make_demo --sheet docs/images/demo_world.png

`tools.demo_world.build` lists the files. A folder whose manifest matches the arguments is left as it is. The same
arguments give the same bytes, whatever the number of workers.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from swift.utils.errors import UserError, reports_user_errors
from swift.utils.flag_limits import CommandParser
from tools.demo_world.build import make_demo, make_policy
from tools.demo_world.canvas import DRAWING_STYLES
from tools.demo_world.dataset import WorldConfig
from tools.demo_world.sheet import write_sheet

# Flags from 0 to 1 that say what kind of world it is.
_SHARES = {
    "prose": "share of the items for SFT about two images that are prose without tags",
    "prevalence": "chance of each finding and device",
    "careless": "share of the findings that the writer of annotations/careless.json overlooks; 0: no such file",
}


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Flags of the command."""
    default = WorldConfig()
    parser = CommandParser(prog="python -m tools.make_demo", description="Make the demo world.")
    place = parser.add_argument_group("output")
    place.add_argument("--output", type=Path, default=Path("data/demo"), help="folder to write (default: data/demo)")
    place.add_argument("--sheet", type=Path, help="write only a captioned contact sheet of the findings to this PNG")
    place.add_argument("--policy", type=Path, help="also make a policy here, pretrained on reports")
    size = parser.add_argument_group("size")
    size.add_argument("--seed", type=int, default=default.seed, help="seed of all random choices")
    size.add_argument("--patients", type=int, nargs=3, default=default.patients, metavar=("TRAIN", "VALID", "TEST"),
                      help="patients in each split; some have two studies")  # fmt: skip
    size.add_argument("--questions", type=int, nargs=2, default=default.questions, metavar=("TRAIN", "VALID"),
                      help="questions about each image")  # fmt: skip
    size.add_argument("--pair_questions", type=int, nargs=2, default=default.pair_questions, metavar=("TRAIN", "VALID"),
                      help="comparison questions about each pair of images")  # fmt: skip
    size.add_argument(
        "--eval_questions", type=int, default=default.eval_questions, help="questions per file, in 3 files"
    )
    kind = parser.add_argument_group("kind of world")
    for name, meaning in _SHARES.items():
        kind.add_argument(f"--{name}", type=float, default=getattr(default, name), metavar="SHARE",
                          help=f"{meaning} (default: %(default)s)")  # fmt: skip
    kind.add_argument(
        "--style",
        choices=DRAWING_STYLES,
        default=default.style,
        help="drawing: usual, or shifted as by another hospital's machine (default: %(default)s)",
    )
    speed = parser.add_argument_group("speed")
    speed.add_argument("--workers", type=int, default=2, help="drawing processes; the result does not depend on it")
    arguments = parser.parse_args(argv)
    counts = (*arguments.patients, *arguments.questions, *arguments.pair_questions, arguments.eval_questions)
    if min(arguments.seed, *counts) < 0:
        raise UserError("--seed and the size flags: a value is negative; give 0 or more")
    for flag in _SHARES:
        if not 0 <= getattr(arguments, flag) <= 1:
            raise UserError(f"--{flag} {getattr(arguments, flag)} is not a share; give a number from 0 to 1")
    return arguments


@reports_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    arguments = parse_arguments(argv)
    if arguments.sheet:
        write_sheet(arguments.sheet, arguments.seed, arguments.style)
        return 0
    config = WorldConfig(
        seed=arguments.seed,
        patients=tuple(arguments.patients),
        questions=tuple(arguments.questions),
        pair_questions=tuple(arguments.pair_questions),
        eval_questions=arguments.eval_questions,
        prose=arguments.prose,
        prevalence=arguments.prevalence,
        style=arguments.style,
        careless=arguments.careless,
    )
    make_demo(arguments.output, config, arguments.workers)
    if arguments.policy:
        make_policy(arguments.policy, arguments.output, config)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

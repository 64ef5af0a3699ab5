"""Convert a checkpoint between Microsoft's remote-code layout and the native one of transformers, both ways.

    python -m tools.convert_checkpoint SOURCE TARGET --to native            adapters in vision-lora/ and speech-lora/
    python -m tools.convert_checkpoint output/grpo TARGET --to remote       a run: its newest checkpoint, on its base
    python -m tools.convert_checkpoint SOURCE TARGET --to native --merge    one plain model, vision adapter folded in

A checksums.json in SOURCE is verified first. TARGET gets one too, and appears under its name when it is complete. See
swift/llm/checkpoint/convert.py for the conversion itself.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from swift.llm.checkpoint.convert import plan_conversion, write_plan
from swift.llm.checkpoint.folders import find_policy
from swift.utils.errors import UserError, reports_user_errors
from swift.utils.flag_limits import CommandParser


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="python -m tools.convert_checkpoint",
        description="Convert a checkpoint between the remote-code and the native layout.",
    )
    parser.add_argument("source", type=Path, help="folder of a full checkpoint, an adapter, or a run")
    parser.add_argument("target", type=Path, help="folder to make")
    parser.add_argument("--to", choices=("native", "remote"), required=True, help="layout of the target")
    parser.add_argument("--base", type=Path, help="full checkpoint below an adapter; default: the one it names")
    parser.add_argument(
        "--merge", action="store_true", help="fold the vision adapter into the weights; leave others out"
    )
    parser.add_argument(
        "--dry_run", action="store_true", help="check the source, list what would be written, write nothing"
    )
    parser.add_argument("--shard_gb", type=float, default=4.0, help="size of a shard, GB; it is held in memory (4)")
    parser.add_argument("--code", type=Path, help="folder of Microsoft's repository; --to remote copies its *.py")
    return parser


@reports_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Plan the conversion, print the plan, and write it unless ``--dry_run`` is given."""
    arguments = _parser().parse_args(argv)
    target = arguments.target
    if arguments.shard_gb <= 0:
        raise UserError(f"--shard_gb {arguments.shard_gb} must be above 0")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} exists and is not an empty folder; name another target")
    source = find_policy(arguments.source, arguments.base)
    plan = plan_conversion(source, arguments.to, merge=arguments.merge, shard_bytes=int(arguments.shard_gb * 1e9))
    for line in plan.describe():
        print(line)
    if arguments.dry_run:
        print(f"dry run: {target} was not written, {plan.nbytes / 1e9:.2f} GB")
        return 0
    write_plan(plan, target, arguments.code)
    print(f"{target}: {plan.to}, {plan.nbytes / 1e9:.2f} GB, verified")
    return 0


if __name__ == "__main__":
    sys.exit(main())

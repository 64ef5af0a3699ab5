"""Page of one training run: its curves, and completions of the policy on the way.

    python -m tools.training_report output/demo/grpo --output output/demo/grpo

train.sh and train_loop.sh leave this page in the folder of every run that ends, and this command
makes it while the run is still training. training.html shows the curves of the log, or of completions.jsonl alone
before the first checkpoint. Below them are groups of completions, spread evenly over the steps: prompt, reference, and
for each completion its rewards, advantage and token log-probabilities. The page loads nothing from elsewhere.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from swift.utils.errors import UserError, reports_user_errors
from swift.utils.flag_limits import CommandParser
from tools.reports.training_page import GROUPS, write_training_page


@reports_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = CommandParser(prog="python -m tools.training_report", description="Page of one training run.")
    parser.add_argument("run", type=Path, help="folder of the run, e.g. output/run")
    parser.add_argument("--output", type=Path, required=True, help="folder for training.html")
    parser.add_argument("--title", help="heading of the page (default: the run's name)")
    parser.add_argument("--groups", type=int, default=GROUPS, help=f"groups of completions to show ({GROUPS})")
    arguments = parser.parse_args(argv)
    if arguments.groups < 1:
        raise UserError(f"--groups {arguments.groups} must be 1 or more")
    page, data = write_training_page(arguments.run, arguments.output, arguments.title, arguments.groups)
    print(f"{page}: {data['steps']} steps, {len(data['groups'])} of {data['sampled']} groups, {data['flat']} of all "
          "without spread")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())

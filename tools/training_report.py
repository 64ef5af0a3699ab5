"""Page of one training run: its curves, and completions of the policy on the way.

    python -m tools.training_report output/demo/grpo --output output/demo/grpo

training.html shows the curves of the log, or of completions.jsonl alone before the first checkpoint. Below them are
groups of completions, spread evenly over the steps: prompt, reference, and for each completion its rewards, advantage
and token log-probabilities. The run may still be training. The page loads nothing from elsewhere.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from swift.utils.errors import UserError, reports_user_errors
from swift.utils.files import write_text
from tools.reports.page import render_page
from tools.reports.training_page import page_data


@reports_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.training_report", description="Page of one training run.", allow_abbrev=False
    )
    parser.add_argument("run", type=Path, help="folder of the run, e.g. output/run")
    parser.add_argument("--output", type=Path, required=True, help="folder for training.html")
    parser.add_argument("--title", help="heading of the page (default: the run's name)")
    parser.add_argument("--groups", type=int, default=400, help="groups of completions to show (default: 400)")
    arguments = parser.parse_args(argv)
    if arguments.groups < 1:
        raise UserError(f"--groups {arguments.groups} must be 1 or more")
    title = arguments.title or f"Training run {arguments.run.resolve().name}"
    data = page_data(arguments.run, title, arguments.groups)
    page = write_text(arguments.output / "training.html", render_page("training", title, data))
    print(f"{page}: {data['steps']} steps, {len(data['groups'])} of {data['sampled']} groups, {data['flat']} of all "
          "without spread")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())

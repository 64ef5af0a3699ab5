"""Say what files of records hold, without a model: images, solutions, explanations, patients, and what is missing.

    python -m tools.check_data FILE...
    python -m tools.check_data FILE --image_root DIR --decode        read every image to the last byte
    python -m tools.check_data FILE --external_plugins my.py         and what the rewards of my.py lack

The status is 1 if training would refuse a record of the files as they are. FILE#500 is the first 500 records.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from swift.llm.dataset import ReadingRules
from swift.llm.ms_swift_arguments import columns_by_field
from swift.plugin import orms
from swift.plugin.loader import OWN_PLUGIN, load_external_plugins
from swift.plugin.rewards import build_rewards
from swift.utils.endings.leaving import run_to_its_end
from swift.utils.errors import UserError, reports_user_errors
from swift.utils.flag_limits import CommandParser
from swift.utils.lines import without_controls
from tools.datasets.facts import DataFacts, metric_facts, read_facts, reward_facts
from tools.reports.tables import align

PROBLEMS_PRINTED = 10


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Flags of the command."""
    parser = CommandParser(prog="python -m tools.check_data", description="Say what files of records hold.")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="files of records in any accepted shape")
    parser.add_argument("--image_root", type=Path, help="image folder (default: images nearest above each file)")
    parser.add_argument("--image_fields", nargs="+", default=[], metavar="FIELD", help="fields that hold images")
    parser.add_argument("--columns", metavar="JSON", help="fields to read under other names, as in training")
    parser.add_argument("--allow_links", action="store_true", help="follow links that lead out of the image folder")
    parser.add_argument("--decode", action="store_true", help="decode every image (default: read headers only)")
    parser.add_argument("--external_plugins", nargs="+", type=Path, default=[OWN_PLUGIN], metavar="FILE",
                        help="plugins whose rewards are asked about (default: plugin.py)")  # fmt: skip
    return parser.parse_args(argv)


@reports_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Print the facts of every file."""
    arguments = parse_arguments(argv)
    load_external_plugins(arguments.external_plugins)
    rewards, unusable = _set_up_rewards()
    columns = columns_by_field(arguments.columns) or {}
    reading = ReadingRules(arguments.image_root, tuple(arguments.image_fields), arguments.allow_links, columns)
    files = [read_facts(path, reading, arguments.decode) for path in arguments.files]
    for facts in files:
        _print_facts(facts, rewards, unusable)
    return int(any(facts.problems for facts in files))


def _set_up_rewards() -> tuple[list[tuple[str, Callable]], list[tuple[str, str]]]:
    """The registered rewards that can be set up, and the reasons why others cannot."""
    rewards, unusable = [], []
    for name in orms:
        try:
            rewards += build_rewards([name])
        except UserError as error:
            unusable.append((name, str(error)))
    return rewards, unusable


def _print_facts(
    facts: DataFacts, rewards: Sequence[tuple[str, Callable]], unusable: Sequence[tuple[str, str]]
) -> None:
    print(without_controls(str(facts.path)))
    sections = {
        "": list(facts.describe()),
        "rewards": [*reward_facts(facts.records, rewards), *unusable],
        "evaluation": list(metric_facts(facts.records)),
    }
    for title, rows in sections.items():
        if title:
            print(title)
        print("\n".join(f"  {line}" for line in align([list(row) for row in rows]).splitlines()))
    if facts.problems:
        print(f"{len(facts.problems)} records would be refused:")
        for problem in list(facts.problems.values())[:PROBLEMS_PRINTED]:
            print(f"  {without_controls(problem)}")


if __name__ == "__main__":
    run_to_its_end(main)

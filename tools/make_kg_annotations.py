"""Sentences of the demo world with entities and relations, to try the training of the neural extractor:

    python -m tools.make_kg_annotations --output data/demo_kg     # train.jsonl, dev.jsonl, test.jsonl

The lexicon extractor made the labels, not a person. A model trained on them learns to imitate the lexicon on the demo's
English, and its F1 says how well it does. The three files share no sentence.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from swift.utils.errors import UserError, reports_user_errors
from swift.utils.flag_limits import CommandParser
from swift.utils.logger import get_logger
from tools.demo_world.dataset import WorldConfig
from tools.demo_world.kg_annotations import write_annotations

logger = get_logger()


@reports_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = CommandParser(prog="python -m tools.make_kg_annotations", description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("data/demo_kg"), help="folder (default: data/demo_kg)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the demo world and of the splits (default: 0)")
    args = parser.parse_args(argv)
    if args.seed < 0:
        raise UserError(f"--seed {args.seed}: give 0 or more")
    counts = write_annotations(args.output, WorldConfig(seed=args.seed))
    logger.info("wrote %s: sentences %s", args.output, json.dumps(counts))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

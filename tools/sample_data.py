"""Sample training sets from pools of questions.

    python -m tools.sample_data --source FILE --policies uniform hard_uniform --sizes 1000 2000 5000
    python -m tools.sample_data --pool answer_first=A.json:0.5 --pool think_first=B.json:0.5 --sizes 1000
    python -m tools.sample_data --source FILE --results FILE_results.json --policies hard_uniform --sizes 1000

A sample goes to <root>/annotations/<policy>/<size>.json, with a <size>.manifest.json beside it that lists its inputs.
`tools.samples.policies` has the policies. Hard items are questions that a model answered wrongly, by their own field
is_correct or by result files of evaluate.py over the pool. Several samples per question make a pass rate. Items about
patients of the evaluation files are refused unless --shared_patients says otherwise. Equal arguments and files give
equal bytes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from swift.llm.dataset import ReadingRules
from swift.utils.errors import UserError, reports_user_errors
from swift.utils.flag_limits import CommandParser
from tools.samples.draw_sets import SampleRequest, draw_sets
from tools.samples.leaks import SHARED_PATIENTS
from tools.samples.policies import ALIASES, POLICIES, DrawSettings
from tools.samples.pools import PoolSource, parse_pool
from utils.metrics import ACCURACY_RULES, TRAINING_RULE


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Flags of the command."""
    parser = CommandParser(prog="python -m tools.sample_data", description="Sample training sets.")
    pools = parser.add_argument_group("pools, in any form that training reads")
    pools.add_argument("--source", type=Path, nargs="+", default=[], metavar="FILE", help="files of a single pool")
    pools.add_argument("--pool", action="append", default=[], metavar="NAME=FILE:SHARE",
                       help="one of several pools to mix; the shares must sum to 1")  # fmt: skip
    choice = parser.add_argument_group("choice")
    choice.add_argument("--policies", nargs="+", default=["uniform"], choices=[*POLICIES, *ALIASES], metavar="NAME",
                        help=f"{', '.join([*POLICIES, *ALIASES])} (default: uniform)")  # fmt: skip
    choice.add_argument("--sizes", type=int, nargs="+", required=True, help="records in a sample")
    choice.add_argument("--seeds", type=int, nargs="+", default=[42],
                        help="seeds of the draw (default: 42); several write to <policy>_seed<seed>/")  # fmt: skip
    choice.add_argument("--stratify", nargs="+", metavar="FIELD",
                        help="fields that make a stratum (default: those of the question type)")  # fmt: skip
    choice.add_argument("--quotas", choices=("equal", "proportional"), default="equal",
                        help="sizes of the strata: equal, or as in the pool (default: equal)")  # fmt: skip
    choice.add_argument("--strict", action="store_true", help="refuse to borrow if a stratum is too small")
    hard = parser.add_argument_group("difficulty, for the hard policies")
    hard.add_argument("--results", type=Path, nargs="+", default=[], metavar="FILE",
                      help="result files of evaluate.py over the pool (default: the items' is_correct)")  # fmt: skip
    hard.add_argument("--rule", choices=tuple(ACCURACY_RULES), default=TRAINING_RULE,
                      help=f"accuracy rule for --results (default: {TRAINING_RULE})")  # fmt: skip
    hard.add_argument("--pass_rate", type=float, nargs=2, default=(0.0, 0.5), metavar=("LOW", "HIGH"),
                      help="range of the share of right answers of hard items (default: 0 0.5)")  # fmt: skip
    leaks = parser.add_argument_group("evaluation patients")
    leaks.add_argument("--eval", type=Path, nargs="+", default=[], metavar="PATH",
                       help="evaluation files or folders of them (default: <root>/annotations/eval)")  # fmt: skip
    leaks.add_argument("--shared_patients", choices=SHARED_PATIENTS, default="refuse",
                       help="treatment of items about patients of the evaluation (default: refuse)")  # fmt: skip
    output = parser.add_argument_group("output")
    output.add_argument("--root", type=Path, default=Path("data/MIMIC-VQA-CoT"),
                        help="folder of annotations/ and images/ (default: data/MIMIC-VQA-CoT)")  # fmt: skip
    output.add_argument("--image_root", type=Path, help="image folder (default: images in the root)")
    output.add_argument("--image_fields", nargs="+", default=[], metavar="FIELD",
                        help="fields of an item that hold images (default: the customary names)")  # fmt: skip
    output.add_argument("--allow_links", action="store_true",
                        help="follow links in the image folder that lead out of it")  # fmt: skip
    output.add_argument("--unseen", choices=("refuse", "count"), default="refuse",
                        help="items without an image: refuse them, or count them (default: refuse)")  # fmt: skip
    output.add_argument("--no_image_check", action="store_true", help="do not check that the images exist")
    output.add_argument("--overwrite", action="store_true", help="replace samples that differ")
    return _checked(parser.parse_args(argv))


def _checked(arguments: argparse.Namespace) -> argparse.Namespace:
    if bool(arguments.source) == bool(arguments.pool):
        raise UserError("give one pool with --source FILE..., or several with --pool NAME=FILE:SHARE, not both")
    arguments.policies = list(dict.fromkeys(ALIASES.get(name, name) for name in arguments.policies))
    arguments.sizes, arguments.seeds = (list(dict.fromkeys(given)) for given in (arguments.sizes, arguments.seeds))
    arguments.sources = [parse_pool(text) for text in arguments.pool]
    if arguments.source:
        arguments.sources = [PoolSource("source", tuple(arguments.source), Fraction(1))]
    shares = sum(source.share for source in arguments.sources)
    if shares != 1 or len({source.name for source in arguments.sources}) < len(arguments.sources):
        raise UserError(
            f"--pool: shares sum to {float(shares):g}; they must sum to 1, and each pool needs its own name"
        )
    if min(arguments.sizes) < 1 or min(arguments.seeds) < 0:
        raise UserError("--sizes must be 1 or more, --seeds 0 or more")
    low, high = arguments.pass_rate
    if not 0 <= low <= high <= 1:
        raise UserError(f"--pass_rate {low:g} {high:g} must be two shares, the lower first")
    return arguments


@reports_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    arguments = parse_arguments(argv)
    draw_sets(
        SampleRequest(
            sources=arguments.sources,
            root=arguments.root,
            sizes=arguments.sizes,
            policies=arguments.policies,
            seeds=arguments.seeds,
            draw=DrawSettings(quotas=arguments.quotas, pass_rate=tuple(arguments.pass_rate), strict=arguments.strict),
            stratify=arguments.stratify,
            results=arguments.results,
            rule=arguments.rule,
            evaluation=arguments.eval,
            shared_patients=arguments.shared_patients,
            reading=ReadingRules(arguments.image_root, tuple(arguments.image_fields), arguments.allow_links),
            unseen=arguments.unseen,
            check_images=not arguments.no_image_check,
            overwrite=arguments.overwrite,
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Sample training sets from pools of questions.

    python -m tools.sample_data --source FILE --policies uniform hard_uniform --sizes 1000 2000 5000
    python -m tools.sample_data --pool answer_first=A.json:0.5 --pool think_first=B.json:0.5 --sizes 1000
    python -m tools.sample_data --source FILE --results FILE_results.json --policies hard_uniform --sizes 1000

A sample goes to <root>/annotations/<policy>/<size>.json, with a <size>.manifest.json beside it that says what it was
drawn from. `tools.samples.policies` has the policies. Hard items are those that a model got wrong: by their own field
is_correct, or by result files of evaluate.py over the pool, where several samples a question make a pass rate. Patients
of the evaluation files are looked for in the pool, and refused unless --shared_patients says what to do.
Equal arguments and files give equal bytes.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from swift.llm.dataset import check_records, load_records
from swift.utils.errors import UserError, reports_user_errors
from swift.utils.files import replacing, write_json
from swift.utils.logger import get_logger
from tools.samples.policies import (
    ALIASES,
    POLICIES,
    Draw,
    DrawSettings,
    SamplingPolicy,
    borrowing,
    draw,
    largest_remainder,
)
from tools.samples.pools import (
    PoolItem,
    PoolSource,
    Questions,
    evaluation_patients,
    parse_pool,
    read_pass_rates,
    read_pool_questions,
    sha256,
    training_record,
)
from utils.metrics import ACCURACY_RULES, TRAINING_RULE
from utils.questions import patient_of

logger = get_logger()


@dataclass(frozen=True)
class Sample:
    """One training set, not yet written."""

    path: Path
    records: list[PoolItem]
    manifest: dict[str, Any]


def take(questions: Sequence[Questions], policy: SamplingPolicy, size: int, settings: DrawSettings) -> list[Draw]:
    """One draw a pool, their sizes by the pools' shares; a question that one pool gave is not taken from the next."""
    shares = {part.source.name: part.source.share for part in questions}
    sizes = largest_remainder(size, shares, {part.source.name: len(part.items) for part in questions})
    draws: list[Draw] = []
    taken: set[tuple[str, str]] = set()
    for part in questions:
        draws.append(draw(part.pool, policy, sizes[part.source.name], settings, frozenset(taken)))
        taken |= {part.pool.keys[position] for position in draws[-1].positions}
    return draws


def make_sample(
    questions: Sequence[Questions],
    policy: SamplingPolicy,
    size: int,
    settings: DrawSettings,
    path: Path,
    facts: dict[str, Any],
) -> Sample:
    """The records of one training set and its manifest; says what was borrowed."""
    draws, records, pools = take(questions, policy, size, settings), [], {}
    for part, drawn in zip(questions, draws, strict=True):
        if said := borrowing(drawn):
            logger.warning("%s %d, pool %s: %s", policy.name, size, part.source.name, said)
        more = {"pool": part.source.name} if len(questions) > 1 else {}
        for position in drawn.positions:
            rate = {} if part.pool.pass_rates is None else {"pass_rate": part.pool.pass_rates[position]}
            records.append(training_record(part.items[position], **rate, **more))
        pools[part.source.name] = {
            "files": [str(file) for file in part.source.files],
            "share": str(part.source.share),
            "items": len(part.items),
            "taken": len(drawn.positions),
            "strata": {name: asdict(stratum) for name, stratum in drawn.strata.items()},
        }
    manifest = {
        "policy": policy.name,
        "size": size,
        **asdict(settings),
        "stratify": list(questions[0].stratify) if policy.stratified else [],
        "pools": pools,
        **facts,
    }
    return Sample(path, records, manifest)


def write_samples(samples: Sequence[Sample], image_root: Path | None, check_images: bool, overwrite: bool) -> None:
    """Write samples and their manifests, after reading each back as training will. Raises UserError for a record that
    training would refuse, and for another file in the way; then nothing is written."""
    digests = []
    with ExitStack() as files:  # each is renamed into place when all are good
        for sample in samples:
            temporary = files.enter_context(replacing(sample.path))
            lines = ",\n".join(json.dumps(record, ensure_ascii=False, allow_nan=False) for record in sample.records)
            temporary.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
            digests.append(sha256(temporary))
            if sample.path.exists() and sha256(sample.path) != digests[-1] and not overwrite:
                raise UserError(f"{sample.path} holds another sample; pass --overwrite, or write to another --root")
            if check_images:
                _read_back(temporary, sample.path, image_root)
    for sample, digest in zip(samples, digests, strict=True):
        output = {"file": sample.path.name, "records": len(sample.records), "sha256": digest}
        write_json(sample.path.with_suffix(".manifest.json"), sample.manifest | {"output": output})
        print(f"{sample.path}: {len(sample.records)} records, sha256 {digest[:12]}")


def _read_back(written: Path, name: Path, image_root: Path | None) -> None:
    try:
        check_records(load_records([written], image_root), decode=False)
    except UserError as error:
        raise UserError(str(error).replace(str(written), str(name))) from error


def shared_patients(arguments: argparse.Namespace) -> tuple[frozenset[str], dict[str, Any]]:
    """Patients to leave out of the pools, and what the manifest says of it. Raises UserError where a pool holds
    patients of the evaluation files, or nothing can be checked, and the flag does not say that this is meant."""
    files = _evaluation_files(arguments)
    facts = {"shared_patients": arguments.shared_patients, "evaluation": {str(file): sha256(file) for file in files}}
    if arguments.shared_patients == "allow":
        return frozenset(), facts
    return evaluation_patients(files), facts


def _evaluation_files(arguments: argparse.Namespace) -> list[Path]:
    places = arguments.eval or [arguments.root / "annotations" / "eval"]
    files = [file for place in places for file in (sorted(place.glob("*.json")) if place.is_dir() else [place])]
    missing = [file for file in files if not file.is_file()]
    if arguments.shared_patients != "allow" and (missing or not files):
        raise UserError(
            f"evaluation questions {(missing or places)[0]} are not there, so shared patients cannot be found; "
            "name them with --eval, or pass --shared_patients allow"
        )
    return [file for file in files if file.is_file()]


def _refuse_shared(questions: Sequence[Questions], patients: frozenset[str]) -> None:
    for part in questions:
        for item, place in zip(part.items, part.places, strict=True):
            if patient_of(item) is None:
                raise UserError(
                    f"{place}: field 'subject_id' is missing, so nobody knows whether evaluation shares its patient; "
                    "add it, or pass --shared_patients allow"
                )
        shared = [item for item in part.items if patient_of(item) in patients]
        if shared:
            raise UserError(
                f"pool {part.source.name}: {len(shared)} of {len(part.items)} items are about "
                f"{len(set(map(patient_of, shared)))} patients of the evaluation questions (e.g. "
                f"{patient_of(shared[0])}); pass --shared_patients exclude to leave them out, or allow to train on them"
            )


def read_sources(arguments: argparse.Namespace, patients: frozenset[str]) -> list[Questions]:
    """All pools, checked for what the policies need and for patients of the evaluation."""
    results = read_pass_rates(arguments.results, arguments.rule) if arguments.results else None
    stratify = arguments.stratify
    if not any(POLICIES[name].stratified for name in arguments.policies):
        stratify = ()
    left_out = patients if arguments.shared_patients == "exclude" else frozenset()
    questions = [read_pool_questions(source, stratify, results, left_out) for source in arguments.sources]
    if len({part.stratify for part in questions}) > 1:
        raise UserError("the pools do not have the same fields to stratify by; name some with --stratify")
    if arguments.shared_patients != "allow":
        _refuse_shared(questions, patients - left_out)
    return questions


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Flags of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.sample_data", description="Sample training sets.", allow_abbrev=False
    )
    pools = parser.add_argument_group("pools, in any form that training reads")
    pools.add_argument("--source", type=Path, nargs="+", default=[], metavar="FILE", help="files of a single pool")
    pools.add_argument("--pool", action="append", default=[], metavar="NAME=FILE:SHARE",
                       help="one of several pools to mix; the shares must sum to 1")  # fmt: skip
    choice = parser.add_argument_group("choice")
    choice.add_argument("--policies", nargs="+", default=["uniform"], choices=[*POLICIES, *ALIASES], metavar="NAME",
                        help=f"{', '.join([*POLICIES, *ALIASES])} (default: uniform)")  # fmt: skip
    choice.add_argument("--sizes", type=int, nargs="+", required=True, help="records in a sample")
    choice.add_argument("--seeds", type=int, nargs="+", default=[42],
                        help="of the draw (default: 42); several write to <policy>_seed<seed>/")  # fmt: skip
    choice.add_argument("--stratify", nargs="+", metavar="FIELD",
                        help="fields that make a stratum (default: question_type, where there)")  # fmt: skip
    choice.add_argument("--quotas", choices=("equal", "proportional"), default="equal",
                        help="of the strata: all the same, or as they are in the pool (default: equal)")  # fmt: skip
    choice.add_argument("--strict", action="store_true", help="refuse to borrow where a stratum is too small")
    hard = parser.add_argument_group("difficulty, for the hard policies")
    hard.add_argument("--results", type=Path, nargs="+", metavar="FILE",
                      help="what evaluate.py wrote for the pool (default: the items' is_correct)")  # fmt: skip
    hard.add_argument("--rule", choices=tuple(ACCURACY_RULES), default=TRAINING_RULE,
                      help=f"which answers of --results are right (default: {TRAINING_RULE})")  # fmt: skip
    hard.add_argument("--pass_rate", type=float, nargs=2, default=(0.0, 0.5), metavar=("LOW", "HIGH"),
                      help="share of right answers that hard items have (default: 0 0.5)")  # fmt: skip
    leaks = parser.add_argument_group("evaluation patients")
    leaks.add_argument("--eval", type=Path, nargs="+", metavar="PATH",
                       help="evaluation files or folders of them (default: <root>/annotations/eval)")  # fmt: skip
    leaks.add_argument("--shared_patients", choices=("refuse", "exclude", "allow"), default="refuse",
                       help="what to do with items about patients of the evaluation (default: refuse)")  # fmt: skip
    output = parser.add_argument_group("output")
    output.add_argument("--root", type=Path, default=Path("data/MIMIC-VQA-CoT"),
                        help="folder of annotations/ and images/ (default: data/MIMIC-VQA-CoT)")  # fmt: skip
    output.add_argument("--image_root", type=Path, help="image folder (default: that of the root)")
    output.add_argument("--no_image_check", action="store_true", help="do not look whether the images are there")
    output.add_argument("--overwrite", action="store_true", help="replace samples that differ")
    return _checked(parser.parse_args(argv))


def _checked(arguments: argparse.Namespace) -> argparse.Namespace:
    if bool(arguments.source) == bool(arguments.pool):
        raise UserError("give the pool with --source FILE..., or several with --pool NAME=FILE:SHARE, not both")
    arguments.policies = list(dict.fromkeys(ALIASES.get(name, name) for name in arguments.policies))
    arguments.sizes, arguments.seeds = (list(dict.fromkeys(given)) for given in (arguments.sizes, arguments.seeds))
    arguments.sources = [parse_pool(text) for text in arguments.pool]
    if arguments.source:
        arguments.sources = [PoolSource("source", tuple(arguments.source), Fraction(1))]
    shares = sum(source.share for source in arguments.sources)
    if shares != 1 or len({source.name for source in arguments.sources}) < len(arguments.sources):
        raise UserError(
            f"--pool: shares sum to {float(shares):g}, they must sum to 1, each pool with a name of its own"
        )
    if min(arguments.sizes) < 1 or min(arguments.seeds) < 0:
        raise UserError("--sizes must be 1 or more, --seeds 0 or more")
    low, high = arguments.pass_rate
    if not 0 <= low <= high <= 1:
        raise UserError(f"--pass_rate {low:g} {high:g} must be two shares, the lower first")
    return arguments


@reports_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Read everything, draw everything, then write: a refusal leaves nothing behind."""
    arguments = parse_arguments(argv)
    patients, leakage = shared_patients(arguments)
    questions = read_sources(arguments, patients)
    inputs = [*(file for source in arguments.sources for file in source.files), *(arguments.results or [])]
    facts = {"rule": arguments.rule if arguments.results else "is_correct", **leakage}
    facts["inputs"] = {str(file): sha256(file) for file in inputs}
    base = DrawSettings(0, arguments.quotas, tuple(arguments.pass_rate), arguments.strict)
    samples = []
    for seed in arguments.seeds:
        for name in arguments.policies:
            folder = name if len(arguments.seeds) == 1 else f"{name}_seed{seed}"
            for size in arguments.sizes:
                path = arguments.root / "annotations" / folder / f"{size}.json"
                settings = replace(base, seed=seed)
                samples.append(make_sample(questions, POLICIES[name], size, settings, path, facts))
    write_samples(samples, arguments.image_root, not arguments.no_image_check, arguments.overwrite)
    return 0


if __name__ == "__main__":
    sys.exit(main())

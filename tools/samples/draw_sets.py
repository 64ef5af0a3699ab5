"""Training sets drawn from pools, and written with a manifest each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from swift.llm.dataset import ReadingRules, check_records, check_seen, image_finder, load_records
from swift.llm.records.presence import describe_images
from swift.utils.errors import UserError
from swift.utils.files import replacing, write_json
from swift.utils.logger import get_logger
from tools.samples.leaks import read_guard
from tools.samples.policies import POLICIES, Draw, DrawSettings, SamplingPolicy, borrowing, draw, largest_remainder
from tools.samples.pools import (
    PoolImages,
    PoolItem,
    PoolSource,
    Questions,
    read_pass_rates,
    read_pool_questions,
    sha256,
    training_record,
)
from utils.metrics import TRAINING_RULE

logger = get_logger()


@dataclass(frozen=True)
class SampleRequest:
    """Everything that training sets are drawn from: one set per policy, size and seed."""

    sources: Sequence[PoolSource]  # the shares sum to 1
    root: Path  # folder of annotations/ and images/
    sizes: Sequence[int]  # records per set
    policies: Sequence[str] = ("uniform",)  # names in POLICIES
    seeds: Sequence[int] = (42,)  # several seeds write to <policy>_seed<seed>/
    draw: DrawSettings = field(default_factory=DrawSettings)  # its seed is replaced
    stratify: Sequence[str] | None = None  # fields that make a stratum; None: the pools' own question types
    results: Sequence[Path] = ()  # result files over the pool; without them the items' is_correct
    rule: str = TRAINING_RULE  # accuracy rule for ``results``
    evaluation: Sequence[Path] = ()  # evaluation files or folders (default: <root>/annotations/eval)
    shared_patients: str = "refuse"  # items about patients of the evaluation: refuse, exclude, or allow
    reading: ReadingRules = field(default_factory=ReadingRules)  # of the pools' images
    check_images: bool = True
    unseen: str = "refuse"  # records without an image: refuse, or count
    overwrite: bool = False


@dataclass(frozen=True)
class Sample:
    """One training set, not yet written."""

    path: Path
    records: list[PoolItem]
    manifest: dict[str, Any]


def draw_sets(request: SampleRequest) -> list[Path]:
    """Read everything, draw everything, then write. A refusal leaves nothing behind.

    Returns the files. Raises UserError if a pool does not have what a policy needs, holds patients of the evaluation,
    or if another file is in the way.
    """
    guard = read_guard(request.evaluation or [request.root / "annotations" / "eval"], request.shared_patients)
    questions = _read_sources(request, guard.left_out)
    guard.check(questions)
    inputs = [*(file for source in request.sources for file in source.files), *request.results]
    facts = {
        "rule": request.rule if request.results else "is_correct",
        "shared_patients": request.shared_patients,
        "evaluation": {str(file): sha256(file) for file in guard.files},
        "inputs": {str(file): sha256(file) for file in inputs},
    }
    samples = []
    for seed in request.seeds:
        settings = replace(request.draw, seed=seed)
        for name in request.policies:
            folder = name if len(request.seeds) == 1 else f"{name}_seed{seed}"
            for size in request.sizes:
                path = request.root / "annotations" / folder / f"{size}.json"
                samples.append(make_sample(questions, POLICIES[name], size, settings, path, facts))
    write_samples(samples, request)
    return [sample.path for sample in samples]


def take(questions: Sequence[Questions], policy: SamplingPolicy, size: int, settings: DrawSettings) -> list[Draw]:
    """One draw per pool, with sizes by the pools' shares. A question taken from one pool is not taken from the next."""
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
    """The records of one training set and its manifest, with ``facts`` added. Warns of borrowed items."""
    draws, records, pools = take(questions, policy, size, settings), [], {}
    for part, drawn in zip(questions, draws, strict=True):
        if warning := borrowing(drawn):
            logger.warning("%s %d, pool %s: %s", policy.name, size, part.source.name, warning)
        more = {"pool": part.source.name} if len(questions) > 1 else {}
        for position in drawn.positions:
            rate = {} if part.pool.pass_rates is None else {"pass_rate": part.pool.pass_rates[position]}
            records.append(training_record(part.items[position], part.parts[position], **rate, **more))
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


def write_samples(samples: Sequence[Sample], request: SampleRequest) -> None:
    """Write samples and their manifests, after reading each back as training will. Raises UserError for a record that
    training would refuse, and for another file in the way. Then nothing is written."""
    digests, images = [], []
    with ExitStack() as files:  # each is renamed into place when all are good
        for sample in samples:
            temporary = files.enter_context(replacing(sample.path))
            lines = ",\n".join(json.dumps(record, ensure_ascii=False, allow_nan=False) for record in sample.records)
            temporary.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
            digests.append(sha256(temporary))
            if sample.path.exists() and sha256(sample.path) != digests[-1] and not request.overwrite:
                raise UserError(f"{sample.path} holds another sample; pass --overwrite, or write to another --root")
            images.append(_read_back(temporary, sample.path, request) if request.check_images else "images unchecked")
    for sample, digest, seen in zip(samples, digests, images, strict=True):
        output = {"file": sample.path.name, "records": len(sample.records), "sha256": digest}
        write_json(sample.path.with_suffix(".manifest.json"), sample.manifest | {"images": seen, "output": output})
        print(f"{sample.path}: {len(sample.records)} records, {seen}, sha256 {digest[:12]}")


def _read_back(written: Path, name: Path, request: SampleRequest) -> str:
    """Read a sample as training will. Returns how many records have how many images."""
    try:
        # The images are in the customary field now.
        records = load_records([written], reading=replace(request.reading, image_fields=()))
        if request.unseen == "refuse":
            check_seen(records)
        check_records(records, decode=False)
    except UserError as error:
        raise UserError(str(error).replace(str(written), str(name))) from error
    return describe_images(records)


def _read_sources(request: SampleRequest, left_out: frozenset[str]) -> list[Questions]:
    """All pools without the patients ``left_out``. Raises UserError if they do not share the fields of their strata."""
    results = read_pass_rates(request.results, request.rule) if request.results else None
    stratified = any(POLICIES[name].stratified for name in request.policies)
    stratify = request.stratify if stratified else ()
    finder = image_finder(request.root / "annotations", request.reading)
    images = PoolImages(request.reading.image_fields, finder, request.unseen)
    questions = [read_pool_questions(source, stratify, results, left_out, images) for source in request.sources]
    if len({part.stratify for part in questions}) > 1:
        raise UserError("the pools do not have the same fields to stratify by; name some with --stratify")
    return questions

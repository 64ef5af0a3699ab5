"""Inputs of sampling: pools of questions, the difficulty of each for a model, and the patients of the evaluation."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from swift.llm.dataset import find_images, raise_problems
from swift.llm.records.files import find_part, read_items
from swift.llm.records.finding import ImageFinder
from swift.llm.records.image_fields import unread_fields
from swift.llm.records.parts import RecordParts, fields_of_parts, missing_solution, plain_names, read_parts
from swift.llm.records.presence import unread_problem
from swift.utils.errors import UserError
from tools.reports.result_files import read_results
from tools.samples.policies import Pool
from utils.metrics import PUBLISHED_RULE
from utils.questions import patient_of, question_key

PoolItem = dict[str, Any]
STRATIFY = (("question_type",), ("semantic_type", "content_type"))  # the first that the items have


@dataclass(frozen=True)
class PoolSource:
    """A named pool on disk and its share of a sample."""

    name: str
    files: tuple[Path, ...]
    share: Fraction


@dataclass(frozen=True)
class PoolImages:
    """The reading of a pool's images: fields that hold them (default: the customary ones), a finder that decides
    between several fields, and whether fields that look like an image and are not read are refused."""

    fields: tuple[str, ...] = ()
    finder: ImageFinder | None = None
    unseen: str = "refuse"  # or count


@dataclass(frozen=True)
class Questions:
    """The items of a source, their parts, their places for messages, all [N], and the pool that sampling draws from."""

    source: PoolSource
    items: list[PoolItem]
    parts: list[RecordParts]
    places: list[str]
    pool: Pool
    stratify: tuple[str, ...]


def parse_pool(text: str) -> PoolSource:
    """Read ``NAME=FILE:SHARE``, the value of --pool."""
    name, equals, location = text.partition("=")
    file, colon, share = location.rpartition(":")
    try:
        part = Fraction(share)
    except (ValueError, ZeroDivisionError):
        part = Fraction(0)
    if not (name and equals and file and colon) or not 0 < part <= 1:
        raise UserError(
            f"--pool {text!r} must be NAME=FILE:SHARE with a share above 0 and at most 1, e.g. a=a.json:0.5"
        )
    return PoolSource(name, (Path(file),), part)


def read_pool_questions(
    source: PoolSource,
    stratify: Sequence[str] | None,
    results: dict[tuple[str, str], float] | None,
    left_out: frozenset[str] = frozenset(),
    images: PoolImages | None = None,
) -> Questions:
    """A source's items without those of the patients ``left_out``, each checked to have a solution.

    Args:
        stratify: fields that make a stratum. None: the first of `STRATIFY` that the items have.
        results: pass rates by `question_key`. None: ``is_correct``, if every item has it.
        left_out: patients whose items are left out.
        images: the reading of the items' images.

    Raises:
        UserError: an item is damaged or lacks a field, or no item is left.
    """
    found = (pair for file in source.files for pair in read_items(existing_pool(file)))
    pairs = [(plain_names(item), place) for item, place in found]
    pairs = [(item, place) for item, place in pairs if not isinstance(item, dict) or patient_of(item) not in left_out]
    if not pairs:
        raise UserError(f"pool {source.name}: {source.files[0]} leaves no items to choose from; pass another file")
    parts = _read_all(pairs, images or PoolImages())
    items, places = [item for item, _ in pairs], [place for _, place in pairs]
    keys = [
        question_key(item, part.turns[-1]["content"], image_names(part))
        for item, part in zip(items, parts, strict=True)
    ]
    _refuse_twins(keys, places)
    fields = _stratify(items, source.name) if stratify is None else tuple(stratify)
    strata = [_stratum(item, fields, place) for item, place in pairs]
    rates = _pass_rates(items, places, keys, results)
    return Questions(source, items, parts, places, Pool(source.name, keys, strata, rates), fields)


def image_names(parts: RecordParts) -> list[str]:
    """The images as training reads them: paths in the image folder, or base64 text."""
    return [image.written for image in parts.images]


def training_record(item: PoolItem, parts: RecordParts, **more: Any) -> PoolItem:
    """Form A: images, messages, solution, idx, subject_id, study_id and answer, then every other field of the item,
    because rewards may read it."""
    record = {"images": image_names(parts), "messages": list(parts.turns), "solution": parts.solution}
    named = {name: item[name] for name in ("idx", "subject_id", "study_id", "answer") if name in item}
    dropped = {*record, *named, *fields_of_parts(item), "explanation"}
    return record | named | {name: value for name, value in item.items() if name not in dropped} | more


def evaluation_patients(paths: Sequence[Path]) -> frozenset[str]:
    """Patients of the evaluation files. Raises UserError if a question does not name its patient."""
    pairs = [pair for path in paths for pair in read_items(path)]
    raise_problems(
        f"{place}: field 'subject_id' is missing or empty, so nobody knows which patient must not be trained on; "
        "add it, or pass --shared_patients allow"
        for item, place in pairs
        if not isinstance(item, dict) or patient_of(item) is None
    )
    return frozenset(patient_of(item) for item, _ in pairs)


def read_pass_rates(paths: Sequence[Path], rule: str) -> dict[tuple[str, str], float]:
    """A model's share of right answers, by `question_key`, from result files of evaluate.py. Raises UserError."""
    rates: dict[tuple[str, str], float] = {}
    for path in paths:
        for position, result in enumerate(read_results(path, fields=("question",))["results"]):
            place = f"result file {path} result {position}"
            if result.get("idx") is None:
                raise UserError(f"{place}: field 'idx' is missing, so its question cannot be found; evaluate again")
            key = question_key(result, result["question"])
            if key in rates:
                raise UserError(f"{place}: question {key[0]} comes twice; pass the results of one evaluation")
            rates[key] = pass_rate(result, rule, place)
    return rates


def pass_rate(result: PoolItem, rule: str, place: str) -> float:
    """The share of right answers of a result, 0 to 1: its ``pass_rate`` (one number, or one per rule), else that of its
    ``samples``, else whether its one answer is ``correct``."""
    rate, samples = result.get("pass_rate"), result.get("samples")
    if isinstance(rate, dict):
        rate = rate.get(rule)
    if rate is None and isinstance(samples, list) and samples:
        verdicts = [_verdict(sample, rule) for sample in samples]
        rate = None if None in verdicts else sum(verdicts) / len(verdicts)
    if rate is None and not samples:
        rate = _verdict(result, rule)
    if isinstance(rate, bool | int | float) and 0 <= rate <= 1:
        return float(rate)
    raise UserError(
        f"{place}: neither pass_rate, samples nor correct says whether it is right by the rule {rule}; evaluate again, "
        "or name another --rule"
    )


def sha256(path: Path) -> str:
    """The digest of a file, or of the file that a part is of, as hexadecimal text."""
    return hashlib.sha256(find_part(path).file.read_bytes()).hexdigest()


def _verdict(answer: Any, rule: str) -> bool | None:
    correct = answer.get("correct") if isinstance(answer, dict) else None
    if isinstance(correct, dict) and isinstance(correct.get(rule), bool):
        return correct[rule]
    said = answer.get("is_correct") if isinstance(answer, dict) and rule == PUBLISHED_RULE else None
    return said if isinstance(said, bool) else None


def _pass_rates(
    items: Sequence[PoolItem], places: Sequence[str], keys: Sequence[tuple[str, str]], results: dict | None
) -> list[float] | None:
    if results is not None:
        raise_problems(
            f"{place}: --results say nothing of this question (idx {key[0]}); evaluate the whole pool"
            for key, place in zip(keys, places, strict=True)
            if key not in results
        )
        return [results[key] for key in keys]
    said = [item.get("is_correct") for item in items]
    if all(value is None for value in said):
        return None
    raise_problems(
        f"{place}: field 'is_correct' must be true or false, it is {json.dumps(value)}; fix it, or pass --results"
        for value, place in zip(said, places, strict=True)
        if value not in (0, 1)
    )
    return [float(value) for value in said]


def _read_all(pairs: Sequence[tuple[Any, str]], images: PoolImages) -> list[RecordParts]:
    """The parts of all items. Raises one UserError for all items that cannot be read or have no solution."""
    parts, problems = [], []
    for item, place in pairs:
        try:
            parts.append(_with_images_found(read_parts(item, images.fields), item, images.finder))
            if parts[-1].solution is None:
                raise UserError(missing_solution(item))
            named = parts[-1].images if images.unseen == "refuse" else []
            if named and (unread := unread_fields(item, named, images.fields)):
                raise UserError(unread_problem(unread))
        except UserError as error:
            problems.append(f"{place}: {error}")
    raise_problems(problems)
    return parts


def _with_images_found(parts: RecordParts, item: PoolItem, finder: ImageFinder | None) -> RecordParts:
    """``parts`` with the images of the field whose files exist. If there are none, the preferred field stays."""
    if finder is None or finder.root is None or len(parts.choices) < 2:
        return parts
    try:
        return parts._replace(choices=(find_images(parts, item, finder)[1],))
    except UserError:
        return parts


def _stratify(items: Sequence[PoolItem], pool: str) -> tuple[str, ...]:
    for fields in STRATIFY:
        if all(item.get(field) is not None for item in items for field in fields):
            return fields
    raise UserError(
        f"pool {pool}: not every item has question_type, or semantic_type and content_type, to be balanced by; "
        "add them, or name other fields with --stratify"
    )


def _stratum(item: PoolItem, fields: Iterable[str], place: str) -> str:
    values = [item.get(field) for field in fields]
    if None in values:
        raise UserError(f"{place}: field {list(fields)[values.index(None)]!r} is missing; add it, or change --stratify")
    return " ".join(map(str, values))


def _refuse_twins(keys: Sequence[tuple[str, str]], places: Sequence[str]) -> None:
    first: dict[tuple[str, str], str] = {}
    raise_problems(
        f"{place} is the same question as {first[key]} (idx {key[0]}); keep one of them"
        for key, place in zip(keys, places, strict=True)
        if first.setdefault(key, place) is not place
    )


def existing_pool(path: Path) -> Path:
    """``path``, if it names a file or a part of one. Raises UserError."""
    try:
        find_part(path)
    except UserError as error:
        raise UserError(f"pool file {path} does not exist; correct the path") from error
    return path

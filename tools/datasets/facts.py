"""Facts about a file of records, found without a model: what it holds, and what rewards and metrics will lack."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from swift.llm.dataset import ReadingRules, Record, damaged_records, load_records
from swift.llm.records.presence import describe_images, unseen_images
from swift.plugin.rewards import lack_of, required_columns
from swift.trainers.rlhf_trainer.rollout import PROVIDED_COLUMNS
from swift.utils.errors import UserError
from tools.samples.pools import STRATIFY
from utils.metrics import reference_answers
from utils.questions import patient_of

KINDS = ("question_type", "semantic_type", "content_type", "answer_type")
COMPLETE = "has all it needs"
NAMES = {"messages": "assistant turn", None: "none"}


@dataclass(frozen=True)
class DataFacts:
    """The records of one file, and the problems of those that training would refuse, by record."""

    path: Path
    records: list[Record]
    problems: dict[str, str]

    def describe(self) -> Iterator[tuple[str, str]]:
        """(subject, fact) pairs for the screen."""
        records = self.records
        yield "records", f"{len(records)}"
        files = {source.key for record in records for source in record.images}
        yield "images", f"{describe_images(records)}; {len(files)} different images"
        fields = Counter(NAMES.get(record.solution_field, record.solution_field) for record in records)
        yield "solutions", ", ".join(f"{count} from {field}" for field, count in fields.most_common())
        yield "explanations", f"{sum(record.has_reasoning for record in records)} of {len(records)} have reasoning"
        patients = Counter(map(patient_of, (record.columns for record in records)))
        unknown = patients.pop(None, 0)
        yield "patients", f"{len(patients)}" + (f"; {unknown} records name none (subject_id)" if unknown else "")
        for kind in KINDS:
            if values := Counter(str(r.columns[kind]) for r in records if r.columns.get(kind) is not None):
                yield kind, ", ".join(f"{value} {count}" for value, count in values.most_common(6))


def read_facts(path: Path, reading: ReadingRules, decode: bool) -> DataFacts:
    """Read a file as training does, and collect every problem instead of stopping at the first. With ``decode`` images
    are read to the last byte. Raises UserError for a file that cannot be read at all."""
    problems: dict[str, str] = {}
    records = load_records([path], reading=reading, skipped=problems)
    if not records:
        raise UserError(f"dataset {path}: no record can be used, the first: {next(iter(problems.values()))}")
    for found in (unseen_images(records), damaged_records(records, decode)):
        problems = {records[position].source: problem for position, problem in found.items()} | problems
    return DataFacts(path, records, problems)


def reward_facts(records: Sequence[Record], rewards: Sequence[tuple[str, Callable]]) -> Iterator[tuple[str, str]]:
    """(reward, what it lacks) pairs for rewards that were set up."""
    for name, reward in rewards:
        lacks = []
        for column in required_columns([(name, reward)]):
            missing = sum(_lacks(record, column) for record in records)
            if missing:
                lacks.append(f"{missing} of {len(records)} records lack {column}")
        lacks += [f"no record has {column}, which it reads" for column in _unused_columns(reward, records)]
        bare = sum(not record.has_reasoning for record in records)
        if bare and getattr(reward, "reads_reasoning", False):
            lacks.append(f"{bare} of {len(records)} records have no reasoning to compare with, only an answer")
        if lack := lack_of(reward, [record.columns for record in records]):
            lacks.append(lack)
        yield name, "; ".join(lacks) or COMPLETE


def metric_facts(records: Sequence[Record]) -> Iterator[tuple[str, str]]:
    """(figure, what it lacks) pairs for the evaluation, the audit and the sampler."""
    count = len(records)
    unanswered = sum(not _has_reference(record) for record in records)
    yield "accuracy", f"{unanswered} of {count} records have no answer" if unanswered else COMPLETE
    bare = sum(not record.has_reasoning for record in records)
    yield "knowledge graphs", f"{bare} of {count} records have no reasoning to compare with" if bare else COMPLETE
    unknown = sum(patient_of(record.columns) is None for record in records)
    yield "intervals", f"{unknown} of {count} records name no patient (subject_id)" if unknown else COMPLETE
    kinds = [fields for fields in STRATIFY if all(r.columns.get(f) is not None for r in records for f in fields)]
    yield "sampling by kind", COMPLETE if kinds else "lacks question_type, or semantic_type and content_type"


def _unused_columns(reward: Callable, records: Sequence[Record]) -> list[str]:
    """Columns that a reward reads if they are there, and no record has."""
    parameters = list(inspect.signature(reward).parameters.values())[1:]
    optional = [p.name for p in parameters if p.default is not p.empty and p.kind is not p.VAR_KEYWORD]
    return [column for column in optional if all(_lacks(record, column) for record in records)]


def _lacks(record: Record, column: str) -> bool:
    if column == "solution":
        return record.solution is None
    return column not in PROVIDED_COLUMNS and record.columns.get(column) is None


def _has_reference(record: Record) -> bool:
    try:
        reference_answers(record.columns | {"explanation": record.solution})
    except ValueError:
        return False
    return True

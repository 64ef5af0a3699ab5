"""Records of a training run: read, checked, and counted by their images. Bad ones stop the run or are left out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from swift.llm.arguments import DataArguments
from swift.llm.dataset import ReadingRules, Record, damaged_records, load_records, problems_of, raise_problems
from swift.llm.images.source import View
from swift.llm.prompting import adapt_records, system_text, view_of
from swift.llm.records.presence import describe_images, unseen_images
from swift.llm.template.protocol import Template
from swift.llm.template.truncation import fit_prompts
from swift.trainers.data import Replacements
from swift.trainers.policy_trainer import PolicyTrainer
from swift.trainers.question_groups import QuestionGroups
from swift.utils.errors import UserError
from swift.utils.files import try_read_json, write_json
from swift.utils.logger import get_logger
from utils.questions import cluster_of

logger = get_logger()

PROBLEMS_SHOWN = 5  # problems that the log shows; args.json has all


@dataclass(frozen=True)
class TrainingData:
    """Training and validation records, and what was found wrong with others."""

    train: list[Record]
    validation: list[Record]
    on_error: str  # stop or skip
    skipped: dict[str, str]  # problems by the name of the record
    unseen: tuple[str, ...] = ()  # problems of records that are used although an image may be unseen

    @property
    def records(self) -> list[Record]:
        """All records."""
        return [*self.train, *self.validation]

    @property
    def facts(self) -> dict[str, Any]:
        """Entries for args.json."""
        return {
            "images": {"training": describe_images(self.train), "validation": describe_images(self.validation)},
            "skipped": {"count": len(self.skipped), "records": list(self.skipped.values())},
            "unseen": {"count": len(self.unseen), "records": list(self.unseen)},
        }

    def checked(self, check: Callable[[Sequence[Record]], None]) -> TrainingData:
        """The data without the records that ``check`` refuses by a UserError, which is raised unless they are
        skipped."""
        if self.on_error == "stop":
            check(self.records)
            return self
        return self.without(problems_of(self.records, check))

    def adapted(self, system: str | None, view: View) -> TrainingData:
        """The data with a system turn and a view of their images, as :func:`adapt_records`."""
        parts = (adapt_records(records, system, view) for records in (self.train, self.validation))
        return replace(self, **dict(zip(("train", "validation"), parts, strict=True)))

    def fitted(self, template: Template, data: DataArguments, *, learns_solutions: bool = False) -> TrainingData:
        """The data whose prompts fit into --max_length, by --truncation_strategy, all prompts checked. Without the
        former, the model's window is the limit. With ``learns_solutions`` the solutions have to fit too."""
        strategy, limit = data.truncation_strategy, data.max_length
        if strategy is not None and limit is None and template.window is not None:
            answer = template.new_tokens
            if learns_solutions:
                solutions = {record.solution or "" for record in self.records}
                answer = max(answer, *(len(template.encode_completion(text)) for text in solutions))
            limit = template.window - min(answer, template.window // 2)
        parts = (fit_prompts(template, records, strategy, limit) for records in (self.train, self.validation))
        fitting = replace(self, **dict(zip(("train", "validation"), parts, strict=True)))
        answer_of = (lambda record: record.solution) if learns_solutions else None
        return fitting.checked(partial(template.check_prompts, answer_of=answer_of))

    def without(self, problems: dict[int, str]) -> TrainingData:
        """The data without the records at these positions. Raises UserError for their problems unless they are
        skipped, or if no training record is left."""
        if not problems:
            return self
        if self.on_error == "stop":
            raise_problems(problems.values())
        records, count = self.records, len(self.train)
        skipped = self.skipped | {records[position].source: problem for position, problem in problems.items()}
        train = [record for position, record in enumerate(self.train) if position not in problems]
        validation = [record for place, record in enumerate(self.validation, count) if place not in problems]
        _refuse_none_left(train, skipped)
        _list("skipped", problems.values())
        return replace(self, train=train, validation=validation, skipped=skipped)


def read_data(data: DataArguments, seed: int, *, require_solution: bool) -> TrainingData:
    """Read the training and validation records and check them. The log says how many have how many images.

    Raises:
        UserError: a record or an image cannot be used, unless such records are skipped.
    """
    skipped: dict[str, str] | None = {} if data.on_error == "skip" else None
    reading = ReadingRules(data.image_root, tuple(data.image_fields), data.allow_links, data.columns or {})
    train, validation = (
        load_records(files, require_solution=require_solution, reading=reading, skipped=skipped)
        for files in (data.dataset, data.val_dataset)
    )
    if skipped:
        _refuse_none_left(train, skipped)
        _list("skipped", skipped.values())
    read = TrainingData(train, validation, data.on_error, skipped or {})
    problems = unseen_images(read.records)
    if data.unseen == "refuse":
        read = read.without(problems)
    else:
        _list("used although an image may be unseen", problems.values())
        read = replace(read, unseen=tuple(problems.values()))
    system, view = system_text(data.system), view_of(data.max_pixels, data.gray_window)
    read = read.adapted(system, view)
    read = read.without(damaged_records(read.records, decode=data.check_images))
    if data.split_dataset_ratio:
        train, validation = split_by_patient(read.train, data.split_dataset_ratio, seed)
        read = replace(read, train=train, validation=validation)
    for name, records in (("training", read.train), ("validation", read.validation)):
        if records:
            logger.info("%d %s records: %s", len(records), name, describe_images(records))
    return read


def split_by_patient(records: Sequence[Record], share: float, seed: int) -> tuple[list[Record], list[Record]]:
    """Training and validation records, where validation holds about ``share`` of the patients.

    All records of a patient are on the same side. A record that names no patient counts as one about the patient of its
    images, and without images as a patient of its own.
    """
    patients = [cluster_of(record.columns, alone=_images_or_name(record)) for record in records]
    order = np.random.default_rng(seed).permutation(sorted(set(patients))).tolist()
    held_out = set(order[: max(1, round(share * len(order)))])
    train: list[Record] = []
    validation: list[Record] = []
    for record, patient in zip(records, patients, strict=True):
        (validation if patient in held_out else train).append(record)
    return train, validation


def skip_unreadable(trainer: PolicyTrainer, on_error: str) -> None:
    """Let the trainer's data sets replace records that turn out to be unreadable during the run, if they are to be
    skipped."""
    for replacements in _replacements(trainer):
        replacements.skips = on_error == "skip"


def note_unreadable(trainer: PolicyTrainer) -> None:
    """Add the records that this process skipped during the run to its args.json."""
    path = Path(trainer.args.output_dir) / "args.json"
    found = [problem for replacements in _replacements(trainer) for problem in replacements.problems.values()]
    problems = list(dict.fromkeys(found))
    if problems and (written := try_read_json(path)):
        count = f"{len(problems)} record{'s were' if len(problems) > 1 else ' was'}"
        logger.warning("%s skipped during the run; args.json lists them", count)
        write_json(path, written | {"skipped_during_run": {"count": len(problems), "records": problems}})


def _replacements(trainer: PolicyTrainer) -> Iterator[Replacements]:
    """The replacements of the trainer's data sets, and of the records below groups of questions."""
    for dataset in filter(None, (trainer.train_dataset, trainer.eval_dataset)):
        yield dataset.replacements
        if isinstance(dataset, QuestionGroups):
            yield dataset.prompts.replacements


def _images_or_name(record: Record) -> str:
    return " ".join(source.key for source in record.images) or record.source


def _refuse_none_left(train: Sequence[Record], skipped: dict[str, str]) -> None:
    if not train:
        raise UserError(
            f"no training record is left of {len(skipped)}; the first problem: {next(iter(skipped.values()))}"
        )


def _list(what: str, problems: Collection[str]) -> None:
    """Log a count of ``problems`` and the first few."""
    for number, problem in enumerate(problems):
        if number == 0:
            count = f"{len(problems)} record{'s are' if len(problems) > 1 else ' is'}"
            logger.warning("%s %s; args.json lists them, the first:", count, what)
        if number < PROBLEMS_SHOWN:
            logger.warning("  %s", problem)

"""Jobs of an evaluation: one file of questions for one checkpoint each, and the answers that exist already."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from swift.evaluation.arguments import EvaluationArguments
from swift.evaluation.controls import blank_images, shuffle_images
from swift.evaluation.partial_results import (
    Partial,
    partial_answers_path,
    partial_answers_paths,
    read_partial,
    remove_partial,
)
from swift.evaluation.results import with_explanation
from swift.llm.checkpoint.folders import base_of, is_adapter
from swift.llm.dataset import Record, check_records, load_records, raise_problems
from swift.llm.images.source import ImageSource
from swift.utils.digests import folder_digest, value_digest
from swift.utils.distributed import is_master
from swift.utils.errors import UserError
from swift.utils.files import try_read_json
from utils.get_knowledge_graph import extractor_name
from utils.metrics import reference_answers
from utils.questions import question_name

SWEEP = tuple(f"test_{group}_vqa.json" for group in ("basic", "compare", "region"))
FORMAT = 1  # of result and partial files; raised when older ones cannot be resumed


@dataclass(frozen=True)
class QuestionFile:
    """The questions of one annotation file. Under a control they already show the images of the control."""

    path: Path
    records: list[Record]
    skipped: dict[int, str] = field(default_factory=dict)  # reasons by position, for questions that cannot be asked

    @property
    def name(self) -> str:
        """The dataset's name in result files."""
        return self.path.stem

    @cached_property
    def digests(self) -> list[str]:
        """Digests of the questions, each with its images by name and size in bytes. They decide the answers."""
        return [
            value_digest([record.messages, [_image_stamp(source) for source in record.images]])
            for record in self.records
        ]

    @cached_property
    def digest(self) -> str:
        """Digest of all questions with their references and the names of their images. The images themselves do not
        count, so that a broken image can be replaced before a run is resumed."""
        return value_digest(
            [[one.messages, one.solution, one.columns, [_image_name(s) for s in one.images]] for one in self.records]
        )


def _image_name(source: ImageSource) -> str:
    return source.key if source.path is None else source.path.name


def _image_stamp(source: ImageSource) -> tuple[str, int]:
    if source.path is None:
        return source.key, len(source.data)
    return source.path.name, source.path.stat().st_size if source.path.is_file() else -1


def read_question_files(arguments: EvaluationArguments) -> list[QuestionFile]:
    """Read the questions of the single file or of the sweep and check them. Raises UserError."""
    return [_read_file(path, arguments) for path in _annotation_files(arguments)]


def _read_file(path: Path, arguments: EvaluationArguments) -> QuestionFile:
    records = load_records([path], arguments.img_root, max_samples=arguments.max_samples)
    _check_answers(records)
    _check_names(records)
    _check_given(records, arguments.given)
    skipped = check_or_skip(records, lambda some: check_records(some, decode=False), arguments.on_error)
    fine = [index for index in range(len(records)) if index not in skipped]
    if not fine:
        raise UserError(f"dataset {path}: no question has a readable image, the first: {skipped[0]}")
    controls = {"blank": blank_images, "shuffled": lambda some: shuffle_images(some, arguments.seed)}
    if arguments.control in controls:
        shown = controls[arguments.control]([records[index] for index in fine])
        for index, record in zip(fine, shown, strict=True):
            records[index] = record
    return QuestionFile(path, records, skipped)


def check_or_skip(
    records: Sequence[Record], check: Callable[[Sequence[Record]], None], on_error: str
) -> dict[int, str]:
    """Apply ``check`` to all of ``records``. If ``on_error`` is skip, returns the problems by position. If it is stop,
    raises the UserError of the check."""
    try:
        check(records)
    except UserError:
        if on_error == "stop":
            raise
    else:
        return {}
    problems = {}
    for index, record in enumerate(records):
        try:
            check([record])
        except UserError as error:
            problems[index] = str(error)
    return problems


def _annotation_files(arguments: EvaluationArguments) -> list[Path]:
    if arguments.annotation_file is not None:
        return [Path(arguments.annotation_file)]
    folder = Path(arguments.dataset_folder) / "annotations" / "eval"
    missing = [name for name in SWEEP if not (folder / name).is_file()]
    if missing:
        raise UserError(
            f"{folder} lacks {', '.join(missing)}; put the files there, name another --dataset_folder, "
            "or evaluate one file with --annotation_file"
        )
    return [folder / name for name in SWEEP]


def _check_answers(records: Sequence[Record]) -> None:
    problems = []
    for record in records:
        try:
            reference_answers(with_explanation(record))
        except ValueError as error:
            problems.append(f"{record.source}: {error}")
    raise_problems(problems)


def _check_names(records: Sequence[Record]) -> None:
    """Require that every question has a name of its own, since results are told apart by it."""
    first: dict[str, Record] = {}
    raise_problems(
        f"{record.source}: {name!r} is what {first[name].source} is called too, by field 'idx', 'id' or its position; "
        "give each question an 'idx' of its own"
        for record, name in ((record, question_name(record.columns, index)) for index, record in enumerate(records))
        if first.setdefault(name, record) is not record
    )


def _check_given(records: Sequence[Record], name: str | None) -> None:
    if name is not None:
        raise_problems(
            f"{record.source}: field '{name}' of --given must be a text or a list of texts to score; name another field"
            for record in records
            if given_text(record, name) is None
        )


def given_text(record: Record, name: str) -> str | None:
    """The text of the record's field, a list of texts joined with ", ". None if it is neither."""
    value = with_explanation(record).get(name)
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ", ".join(value)
    return value if isinstance(value, str) else None


def checkpoint_name(checkpoint: Path) -> str:
    """A checkpoint's name in result files. The name of a run stands before its ``checkpoint-N``."""
    checkpoint = checkpoint.resolve()
    in_run = checkpoint.name.startswith("checkpoint-")
    return f"{checkpoint.parent.name}-{checkpoint.name}" if in_run else checkpoint.name


@dataclass(frozen=True)
class EvaluationJob:
    """One annotation file put to one checkpoint."""

    checkpoint: Path
    questions: QuestionFile
    result: Path
    settings: dict[str, Any]  # everything that decides the answers: flags, and digests of weights and questions
    images: str  # digest of the images shown

    def partials(self) -> list[Partial]:
        """The partial files of this job. Files of other settings are left out."""
        partials = [read_partial(path) for path in partial_answers_paths(self.result)]
        return [partial for partial in partials if partial and not self.differences(partial.header["settings"])]

    def rows(self) -> dict[int, dict[str, Any]]:
        """The existing answers by position. Answers to questions whose images have changed are left out."""
        digests = self.questions.digests
        rows: dict[int, dict[str, Any]] = {}
        for partial in self.partials():
            for index, row in partial.rows.items():
                if 0 <= index < len(digests) and row["question"] == digests[index]:
                    rows.setdefault(index, row)
        return rows

    def unanswered(self, rows: dict[int, dict[str, Any]]) -> int:
        """Number of questions that have neither an answer nor a reason to be skipped."""
        return len(set(range(len(self.questions.records))) - rows.keys() - self.questions.skipped.keys())

    def differences(self, settings: dict[str, Any]) -> list[str]:
        """Differences between ``settings`` and this job's, each in words."""
        names = dict.fromkeys([*self.settings, *settings])
        return [
            f"{name} {settings.get(name)!r}, now {self.settings.get(name)!r}"
            for name in names
            if settings.get(name) != self.settings.get(name)
        ]

    def finished(self) -> bool:
        """True if the result file exists and has this job's settings.

        Raises UserError if it or a partial file has other settings, so that no answers are lost.
        """
        for path in partial_answers_paths(self.result):
            partial = read_partial(path)
            if partial and (other := self.differences(partial.header["settings"])):
                raise UserError(_in_the_way(path, other))
        if not self.result.exists():
            return False
        document = try_read_json(self.result) or {}
        settings, images, extractor = (document.get(name) for name in ("settings", "images", "extractor"))
        if not isinstance(settings, dict):
            raise UserError(_in_the_way(self.result, ["no settings in it"]))
        other = self.differences(settings)
        if images != self.images:
            other.append("other images")
        if extractor not in (None, extractor_name()):
            other.append(f"extractor {extractor}, now {extractor_name()}")
        if other:
            raise UserError(_in_the_way(self.result, other))
        return True

    def clear(self, part: tuple[int, int]) -> None:
        """Remove the answers of this part, or of all parts if there is only one, so that the job starts over.

        The result is removed too, since another part would take it for the new one. Raises UserError while a process
        writes to the answers.
        """
        for path in partial_answers_paths(self.result) if part[1] == 1 else [partial_answers_path(self.result, part)]:
            remove_partial(path)
        if is_master():  # another rank may arrive so late that the result is new
            for path in (self.result, self.result.with_suffix(".run.json")):
                path.unlink(missing_ok=True)


def _in_the_way(path: Path, other: Sequence[str]) -> str:
    return (
        f"{path} holds answers of other settings ({'; '.join(other)}); pass another --output_dir, or --resume false to "
        "replace them"
    )


def make_jobs(
    arguments: EvaluationArguments, checkpoints: Sequence[Path], files: Sequence[QuestionFile]
) -> list[EvaluationJob]:
    """Make a job for every file and checkpoint. Raises UserError if two of them would write the same result file."""
    jobs: dict[Path, EvaluationJob] = {}
    for checkpoint in checkpoints:
        weights = weight_digests(checkpoint, arguments.base_model_path)
        for questions in files:
            settings = {
                "format": FORMAT,
                "tokens": arguments.scores_tokens,
                "weights": weights,
                "questions": questions.digest,
                **arguments.decisive(),
            }
            result = result_path(checkpoint, questions, arguments)
            if result in jobs:
                raise UserError(
                    f"{checkpoint} and {jobs[result].checkpoint} would both write {result}; evaluate them into "
                    "different --output_dir"
                )
            jobs[result] = EvaluationJob(checkpoint, questions, result, settings, value_digest(questions.digests))
    return list(jobs.values())


def weight_digests(checkpoint: Path, base: str | None) -> list[str]:
    """Digests of the checkpoint and, for an adapter, of the full folder below it."""
    if not is_adapter(checkpoint):
        return [folder_digest(checkpoint)]
    return [folder_digest(folder) for folder in (checkpoint, base_of(checkpoint, base))]


def result_path(checkpoint: Path, questions: QuestionFile, arguments: EvaluationArguments) -> Path:
    """``<output_dir>/<checkpoint>_<dataset>_<processor source>_results.json``.

    The processor source is the checkpoint itself or the base below it. The name of a control, and ``sampled`` if
    answers are not greedy, stand before ``results``. Files with token probabilities end in ``token_prob``, after the
    name of the field that was given, if any.
    """
    own = (checkpoint / "tokenizer_config.json").exists()
    parts = [checkpoint_name(checkpoint), questions.name, "checkpoint" if own else "base"]
    if arguments.control != "none":
        parts.append(arguments.control)
    if arguments.temperature > 0:
        parts.append("sampled")
    if not arguments.scores_tokens:
        parts.append("results")
    else:
        parts += ["token_prob"] if arguments.given is None else ["given", arguments.given, "token_prob"]
    return Path(arguments.output_dir) / ("_".join(parts) + ".json")

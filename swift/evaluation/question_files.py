"""Files of questions for an evaluation: read, checked, and shown other images under a control."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

from swift.evaluation.arguments import EvaluationArguments
from swift.evaluation.controls import blank_images, shuffle_images
from swift.evaluation.results import with_explanation
from swift.llm.dataset import (
    ReadingRules,
    Record,
    check_records,
    check_seen,
    load_records,
    problems_of,
    raise_problems,
)
from swift.llm.images.source import ImageSource
from swift.llm.prompting import adapt_records, system_text, view_of
from swift.llm.records.files import find_part, record_files
from swift.llm.records.presence import describe_images, unseen_images
from swift.utils.digests import value_digest
from swift.utils.distributed import is_master
from swift.utils.errors import UserError
from swift.utils.logger import get_logger
from utils.metrics import reference_answers
from utils.questions import counted, question_name

logger = get_logger()

SWEEP = tuple(f"test_{group}_vqa.json" for group in ("basic", "compare", "region"))


@dataclass(frozen=True)
class QuestionFile:
    """The questions of one annotation file. Under a control they already show the images of the control."""

    path: Path
    records: list[Record]
    skipped: dict[int, str] = field(default_factory=dict)  # reason by position: questions that cannot be asked
    malformed: tuple[tuple[str, str], ...] = ()  # place in the file and reason: entries that are not even questions
    unseen: tuple[str, ...] = ()  # problems of questions that are asked although an image may be unseen

    @property
    def name(self) -> str:
        """The dataset's name in result files."""
        part = find_part(self.path)
        return "_".join(map(str, (part.file.stem, *(number for number in part[1:] if number is not None))))

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
            [
                [record.messages, record.solution, record.columns, [_image_name(source) for source in record.images]]
                for record in self.records
            ]
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
    reading = ReadingRules(arguments.img_root, tuple(arguments.image_fields), arguments.allow_links)
    malformed: dict[str, str] | None = {} if arguments.on_error == "skip" else None
    records = load_records([path], max_samples=arguments.max_samples, reading=reading, skipped=malformed)
    if not records:
        raise UserError(f"dataset {path}: no entry is a question, the first: {next(iter(malformed.values()))}")
    view = view_of(arguments.max_pixels, arguments.gray_window)
    records = _named_once(adapt_records(records, system_text(arguments.system), view), malformed)
    check = partial(_check_questions, unseen=arguments.unseen, given=arguments.given)
    skipped = check_or_skip(records, check, arguments.on_error)
    readable = [index for index in range(len(records)) if index not in skipped]
    if not readable:
        raise UserError(f"dataset {path}: no question can be asked, the first: {skipped[0]}")
    unseen = tuple(unseen_images(records).values()) if arguments.unseen == "count" else ()
    _count_images(path, records, unseen)
    bad = [*(malformed or {}).values(), *skipped.values()]
    if bad:
        logger.warning("%s: %s skipped; the result file lists them, the first: %s",
                       path, counted(len(bad), "question"), bad[0])  # fmt: skip
    controls = {"blank": blank_images, "shuffled": partial(shuffle_images, seed=arguments.seed)}
    if arguments.control in controls:
        shown = controls[arguments.control]([records[index] for index in readable])
        for index, record in zip(readable, shown, strict=True):
            records[index] = record
    return QuestionFile(path, records, skipped, tuple((malformed or {}).items()), unseen)


def check_or_skip(
    records: Sequence[Record], check: Callable[[Sequence[Record]], None], on_error: str
) -> dict[int, str]:
    """Run ``check`` over ``records``. Returns the problem of each bad record by position if ``on_error`` is skip, and
    raises the check's UserError if it is stop."""
    if on_error == "stop":
        check(records)
        return {}
    return problems_of(records, check)


def _count_images(path: Path, records: Sequence[Record], unseen: Sequence[str]) -> None:
    """Print how many questions have how many images, and warn of those that are asked although one may be unseen."""
    if is_master():
        print(f"{path}: {describe_images(records)}")
    if unseen:
        logger.warning(
            "%d questions are asked although an image may be unseen; the result file lists them, the first: %s",
            len(unseen), unseen[0],
        )  # fmt: skip


def _check_questions(records: Sequence[Record], unseen: str, given: str | None) -> None:
    """Raise UserError for answers and texts of ``given`` that cannot be compared or scored, for records that lack an
    image, unless these are only counted, and for images that are missing or broken by their headers."""
    _check_answers(records)
    _check_given(records, given)
    if unseen == "refuse":
        check_seen(records)
    check_records(records, decode=False)


def _annotation_files(arguments: EvaluationArguments) -> list[Path]:
    if arguments.annotation_file is not None:
        return [Path(arguments.annotation_file)]
    folder = Path(arguments.dataset_folder) / "annotations" / "eval"
    found = [folder / name for name in SWEEP if (folder / name).is_file()]
    if not found and folder.is_dir():
        found = record_files(folder)
    if not found:
        raise UserError(
            f"{folder} holds no file of questions; put {', '.join(SWEEP)} there, or some of them, name another "
            "--dataset_folder, or evaluate one file with --annotation_file"
        )
    return found


def _check_answers(records: Sequence[Record]) -> None:
    problems = []
    for record in records:
        try:
            reference_answers(with_explanation(record))
        except ValueError as error:
            problems.append(f"{record.source}: {error}")
    raise_problems(problems)


def _named_once(records: Sequence[Record], malformed: dict[str, str] | None) -> list[Record]:
    """The records whose names are their own, since results are told apart by names. Raises UserError for the others,
    unless ``malformed`` is given: then they are left out and added to it."""
    first: dict[str, Record] = {}
    problems: dict[str, str] = {}
    for index, record in enumerate(records):
        name = question_name(record.columns, index)
        if (other := first.setdefault(name, record)) is not record:
            problems[record.source] = (
                f"{record.source}: {name!r} is also the name of {other.source}, by field 'idx', 'id' or its position; "
                "give each question an 'idx' of its own"
            )
    if malformed is None:
        raise_problems(problems.values())
    else:
        malformed |= problems
    return [record for record in records if record.source not in problems]


def _check_given(records: Sequence[Record], name: str | None) -> None:
    if name is not None:
        raise_problems(
            f"{record.source}: field '{name}' of --given must be a text or a list of texts to score; name another field"
            for record in records
            if given_text(record, name) is None
        )


def given_text(record: Record, name: str) -> str | None:
    """The text in the record's field ``name``, or the list of texts there joined with ", "; None if it is neither."""
    value = with_explanation(record).get(name)
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ", ".join(value)
    return value if isinstance(value, str) else None

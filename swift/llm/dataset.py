"""Datasets on disk, read into :class:`Record`, and the check that finds every bad record before training starts.

A record is an object of any shape that `swift.llm.records` knows: turns, a question or a conversation, with images
under any customary name, and a solution, an explanation or an answer. docs/training.md has the table of shapes.
Messages count records from 0.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from swift.llm.images.source import ImageSource, check_image
from swift.llm.records.files import find_part, read_items
from swift.llm.records.finding import ImageFinder
from swift.llm.records.image_fields import ImageValue, unread_fields
from swift.llm.records.parts import (
    ANSWER_FIELDS,
    RecordParts,
    fields_of_parts,
    missing_solution,
    plain_names,
    read_parts,
    with_names,
)
from swift.llm.records.presence import unseen_images
from swift.llm.records.record import Record
from swift.llm.records.values import plain_answer
from swift.utils.errors import UserError

PLACEHOLDER = re.compile(r"<image>|<\|?image_(\d+)\|?>")
CHECKING_THREADS = 8
NOT_COLUMNS = frozenset({"messages", "images", "image"})


@dataclass(frozen=True)
class ReadingRules:
    """The way in which records are read."""

    image_root: str | Path | None = None  # default: the ``images`` folder beside or above each file
    image_fields: tuple[str, ...] = ()  # fields that hold images; default: the customary ones
    allow_links: bool = False  # links inside the image root may lead out of it
    columns: Mapping[str, str] = field(default_factory=dict)  # names to read fields under


def load_records(
    paths: Sequence[str | Path],
    image_root: str | Path | None = None,
    *,
    require_solution: bool = False,
    max_samples: int | None = None,
    reading: ReadingRules | None = None,
    skipped: dict[str, str] | None = None,
) -> list[Record]:
    """Read dataset files, in order, up to ``max_samples`` records in all.

    Relative image paths are searched in ``image_root`` (default: the ``images`` folder beside or above each file),
    beside it, and in the working folder. The image must be inside ``image_root``. Images are not opened. ``reading``
    has further settings, and its own ``image_root``.

    Raises UserError for the first malformed file, or for all malformed records at once. If ``skipped`` is given,
    malformed records are left out and added to it instead, as problems by record.
    """
    reading = reading or ReadingRules(image_root)
    records: list[Record] = []
    problems: dict[str, str] = {}
    for path in paths:
        finder = image_finder(find_part(path).file, reading)
        items = read_items(path)
        if not items:
            raise UserError(f"dataset {path} holds no records; pass another file")
        for item, place in items[: None if max_samples is None else max_samples - len(records)]:
            try:
                records.append(_parse(item, place, finder, reading, require_solution))
            except UserError as error:
                problems[place] = f"{place}: {error}"
    if skipped is None:
        raise_problems(problems.values())
    else:
        skipped |= problems
    return records


def check_records(records: Iterable[Record], decode: bool = True) -> None:
    """Raise one UserError for all records whose placeholders or images are wrong: the first problem and a count.

    Each distinct image is read once, and decoded to its last byte unless ``decode`` is False.
    """
    raise_problems(damaged_records(list(records), decode).values())


def damaged_records(records: Sequence[Record], decode: bool = True) -> dict[int, str]:
    """The first problem of each record that `check_records` refuses, by position."""
    sources = {source.key: source for record in records for source in record.images}

    def problem_of(source: ImageSource) -> str | None:
        try:
            check_image(source, decode)
        except UserError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(CHECKING_THREADS) as pool:
        problems = pool.map(problem_of, sources.values())
        bad = dict(zip(sources, tqdm(problems, "checking images", len(sources), leave=False, delay=2), strict=True))
    found = {position: next(_problems(record, bad), None) for position, record in enumerate(records)}
    return {position: f"{records[position].source}{problem}" for position, problem in found.items() if problem}


def check_seen(records: Sequence[Record]) -> None:
    """Raise one UserError for all records without an image, or with a field that looks like one and is not read."""
    raise_problems(unseen_images(records).values())


def problems_of(records: Sequence[Record], check: Callable[[Sequence[Record]], None]) -> dict[int, str]:
    """The problem of each record that ``check`` refuses by a UserError, by position."""
    try:
        check(records)
        return {}
    except UserError:
        pass
    problems = {}
    for position, record in enumerate(records):
        try:
            check([record])
        except UserError as error:
            problems[position] = str(error)
    return problems


def image_placeholders(messages: Iterable[dict[str, str]]) -> list[int]:
    """Numbers (from 1) of the images whose placeholders are in user turns, in order of appearance.

    ``<image>`` is the next image, ``<image_k>`` and ``<|image_k|>`` are image k.
    """
    numbers: list[int] = []
    for message in messages:
        if message["role"] == "user":
            for match in PLACEHOLDER.finditer(message["content"]):
                numbers.append(int(match[1]) if match[1] else len(numbers) + 1)
    return numbers


def _problems(record: Record, bad_images: dict[str, str | None]) -> Iterator[str]:
    numbers, count = image_placeholders(record.messages), len(record.images)
    if numbers and sorted(numbers) != list(range(1, count + 1)):
        yield (
            f": field 'messages': {len(numbers)} image placeholders (images {numbers}) for {count} images; "
            "name each image once, or leave the placeholders out"
        )
    for source in record.images:
        if problem := bad_images[source.key]:
            yield f": {source.place}: {problem}"


def raise_problems(problems: Iterable[str]) -> None:
    """Raise a one-line UserError with the first problem and a count of the others, if there are any problems."""
    problems = list(problems)
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise UserError(problems[0] + more)


def image_finder(file: Path, reading: ReadingRules) -> ImageFinder:
    """The finder of a file's images. Raises UserError if the image root is not a folder."""
    root = reading.image_root
    if root is not None and not Path(root).is_dir():
        raise UserError(f"image root {root} is not a folder; correct --image_root")
    root = _default_image_root(file) if root is None else Path(root)
    return ImageFinder(root and root.resolve(), reading.allow_links)


def _default_image_root(file: Path) -> Path | None:
    return next((parent / "images" for parent in file.absolute().parents if (parent / "images").is_dir()), None)


def _parse(item: Any, place: str, finder: ImageFinder, reading: ReadingRules, require_solution: bool) -> Record:
    image_fields = reading.image_fields
    item = plain_names(with_names(item, reading.columns))
    parts = read_parts(item, image_fields)
    if require_solution and parts.solution is None:
        raise UserError(missing_solution(item))
    images, values = find_images(parts, item, finder)
    embedded = any(source.path is None for source in images)
    left_out = NOT_COLUMNS | fields_of_parts(item) if embedded else NOT_COLUMNS
    columns = {key: value for key, value in item.items() if key not in left_out}
    if columns.get("answer") is None and parts.solution_field in ANSWER_FIELDS:
        columns["answer"] = columns[parts.solution_field]
    if "answer" in columns:
        columns["answer"] = plain_answer(columns["answer"])
    columns["solution"] = parts.solution
    unread = tuple(unread_fields(item, values, image_fields))
    return Record(images, parts.turns, parts.solution, columns, place, unread, parts.solution_field)


def find_images(
    parts: RecordParts, item: Mapping[str, Any], finder: ImageFinder
) -> tuple[tuple[ImageSource, ...], list[ImageValue]]:
    """The images of the first field whose files all exist, else those of the preferred field, and their values."""
    outcomes: list[UserError | tuple[tuple[ImageSource, ...], list[ImageValue]]] = []
    for values in parts.choices:
        try:
            found = [finder.find(value, item) for value in values]
        except UserError as error:
            outcomes.append(error)
            continue
        outcomes.append((tuple(source for source, _ in found), values))
        if all(exists for _, exists in found):
            return outcomes[-1]
    if not outcomes:
        return (), []
    if isinstance(outcomes[0], UserError):
        raise outcomes[0]
    return outcomes[0]


def find_question(item: Any) -> str:
    """The text of the record's question: its ``question``, else its last user turn without image placeholders. Raises
    UserError if ``item`` is not a record."""
    named = item.get("question") if isinstance(item, dict) else None
    return named if isinstance(named, str) and named else last_question(read_parts(plain_names(item)).turns)


def last_question(messages: Sequence[dict[str, str]]) -> str:
    """The last turn of a prompt, which is the user's, without image placeholders; "" for a prompt without turns."""
    return PLACEHOLDER.sub("", messages[-1]["content"]).strip() if messages else ""

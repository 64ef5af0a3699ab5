"""The data folder that public data sets are brought into, and the search for their files.

TARGET/images                                  a link to the images as downloaded, or a copy of them
TARGET/annotations/train.json, valid.json      training records; valid.json if the data set has such a split
TARGET/annotations/eval/test_basic_vqa.json    evaluation questions
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swift.llm.dataset import ReadingRules, find_images, image_finder
from swift.llm.records.files import read_items
from swift.llm.records.parts import read_parts
from swift.utils.errors import UserError
from swift.utils.files import write_json
from utils.questions import patient_of

EVALUATION_FILE = "eval/test_basic_vqa.json"
SEARCH_DEPTH = 4  # folders below the source in which files are searched
RECORDS_TRIED = 200  # records whose images tell the folder of images; downloads are often incomplete

SourceRecord = dict[str, Any]


@dataclass(frozen=True)
class SourceData:
    """A public data set as read: records by split, each with its image as the data set names it, and notes for the
    user."""

    splits: dict[str, list[SourceRecord]]
    images: Path  # folder that the images are relative to
    notes: list[str] = field(default_factory=list)


def source_folders(source: Path) -> Iterator[Path]:
    """``source`` and the folders in it, the nearest first. Folders of single patients (p10000032) are left out."""
    level = [source]
    for _ in range(SEARCH_DEPTH):
        yield from level
        level = [
            inner
            for folder in level
            for inner in sorted(folder.iterdir())
            if inner.is_dir() and not inner.name[1:].isdigit()
        ]


def find_split_files(source: Path, names: dict[str, Sequence[str]]) -> dict[str, Path]:
    """The file of each split, by the names it may have. Raises UserError if no folder has a training file."""
    for folder in source_folders(source):
        found = {split: folder / name for split, given in names.items() for name in given if (folder / name).is_file()}
        if "train" in found:
            return found
    raise UserError(f"{source} holds no {' or '.join(names['train'])}; name the folder of the downloaded files")


def read_objects(path: Path) -> list[SourceRecord]:
    """The records of a file. Raises UserError if one is not an object."""
    items = read_items(path)
    for item, place in items:
        if not isinstance(item, dict):
            raise UserError(f"{place} is not an object; download {path.name} again")
    return [item for item, _ in items]


def find_image_folder(folders: Iterator[Path], records: Sequence[SourceRecord], reading: ReadingRules) -> Path:
    """The first folder in which one of the first records' images is found. Raises UserError if there is none."""
    examples = [record for record in records if record.get("image")][:RECORDS_TRIED]
    for folder in folders:
        images = ImageFolder(folder, reading)
        if any(images.name_images(record) for record in examples):
            return folder
    named = examples[0]["image"] if examples else "the images"
    raise UserError(f"{named} is in none of the folders of the source; unpack the images there, or pass --images")


def split_answers(answer: Any) -> list[str]:
    """The answers of a record as the list that evaluation compares with: lower case, split at commas."""
    texts = answer if isinstance(answer, list) else [] if answer is None else [answer]
    parts = (part for text in texts for part in _spoken(text).split(","))
    return [part for part in dict.fromkeys(part.strip().rstrip(".").lower() for part in parts) if part]


def write_data(
    data: SourceData, target: Path, reading: ReadingRules, *, copy: bool, leave_out_missing: bool
) -> list[str]:
    """Write the data folder. Returns what was written, in lines for the screen.

    Raises UserError if images are missing and are not to be left out, or if another folder is in the way.
    """
    place = ImageFolder(data.images, reading)
    splits = {split: [place.name_images(record) for record in records] for split, records in data.splits.items()}
    if place.missing and not leave_out_missing:
        raise UserError(
            f"{len(place.missing)} of the questions' images are missing in {data.images}, such as {place.missing[0]}; "
            "download them, or pass --leave_out_missing"
        )
    _place_images(data.images, target / "images", copy)
    lines = list(data.notes)
    for split, named in splits.items():
        records = [record for record in named if record is not None]
        if not records:
            raise UserError(f"{target}: no record of {split} has its image; download the images")
        path = target / "annotations" / (EVALUATION_FILE if split == "test" else f"{split}.json")
        write_json(path, records)
        missing = f", {len(named) - len(records)} left out because their image is missing" * (len(named) > len(records))
        reasoned = sum("explanation" in record for record in records)
        lines.append(f"{path}: {len(records)} records, {reasoned} with an explanation{missing}")
    return lines + _shared_patients(splits)


class ImageFolder:
    """The images of a data set in its folder, and those that are missing there."""

    def __init__(self, folder: Path, reading: ReadingRules) -> None:
        self.root = folder.resolve()
        self.finder = image_finder(folder, ReadingRules(folder, allow_links=reading.allow_links))
        self.missing: list[str] = []

    def name_images(self, record: SourceRecord) -> SourceRecord | None:
        """The record with the paths of its images in the folder; None if one is missing."""
        try:
            images, values = find_images(read_parts(record), record, self.finder)
        except UserError as error:
            raise UserError(f"question {record.get('idx')}: {error}") from error
        if not images or not all(source.path.is_file() for source in images):
            self.missing.append(str(record.get("image")))
            return None
        names = [
            str(source.path.relative_to(self.root)) if source.path.is_relative_to(self.root) else value.text
            for source, value in zip(images, values, strict=True)
        ]
        return {"images": names} | {name: value for name, value in record.items() if name != "image"}


def _spoken(value: Any) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _place_images(images: Path, place: Path, copy: bool) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.resolve() == images.resolve():
        return
    if place.is_symlink() or place.exists():
        raise UserError(f"{place} exists and is another folder; remove it, or name another target")
    if copy:
        shutil.copytree(images, place)
    else:
        os.symlink(images.resolve(), place, target_is_directory=True)


def _shared_patients(splits: dict[str, list[SourceRecord | None]]) -> list[str]:
    """A line about patients, or images, that are in the training and the test split."""
    for what, name_of in (("patients", patient_of), ("images", lambda record: str(record["images"]))):
        names = {
            split: {name for record in records if record is not None and (name := name_of(record)) is not None}
            for split, records in splits.items()
        }
        if shared := names.get("train", set()) & names.get("test", set()):
            return [
                f"note: {len(shared)} of the {len(names['test'])} {what} of the test split are in the training split "
                "too, as published"
            ]
    return []

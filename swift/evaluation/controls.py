"""Controls that tell looking at the image from knowing the language: questions with images that are not theirs."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from PIL import Image

from swift.llm.dataset import Record
from swift.llm.images.source import ImageSource, image_size
from swift.utils.errors import UserError

GREY = 128  # nearly 0 once normalised


def shuffle_images(records: Sequence[Record], seed: int) -> list[Record]:
    """The same questions in the same order, each with the images of a question about another patient.

    Images are permuted among questions with equally many, so every set of images is shown as often as before.
    Patients are told apart by ``subject_id``, or by their images where there is none. Deterministic in ``seed``.

    Raises UserError where one patient holds more than half of such questions.
    """
    shuffled = list(records)
    rng = np.random.default_rng(seed)
    by_count: dict[int, list[int]] = defaultdict(list)
    for position, record in enumerate(records):
        by_count[len(record.images)].append(position)
    for count, positions in by_count.items():
        if count:
            for position, donor in _exchange(records, positions, rng):
                shuffled[position] = replace(records[position], images=records[donor].images)
    return shuffled


def blank_images(records: Sequence[Record]) -> list[Record]:
    """The same questions, each image replaced by an evenly grey one of the same size."""
    blank: dict[tuple[int, int], ImageSource] = {}

    def replaced(source: ImageSource) -> ImageSource:
        size = image_size(source)
        if size not in blank:
            file = io.BytesIO()
            Image.new("L", size, GREY).save(file, "PNG")
            blank[size] = ImageSource(f"blank {size[0]} x {size[1]}", data=file.getvalue())
        return blank[size]

    return [replace(record, images=tuple(map(replaced, record.images))) for record in records]


def _exchange(records: Sequence[Record], positions: list[int], rng: np.random.Generator) -> list[tuple[int, int]]:
    """(position, position of its new images): patients in a row in random order, turned by the largest patient."""
    patients: dict[str, list[int]] = defaultdict(list)
    for position in rng.permutation(positions).tolist():
        patients[_patient(records[position])].append(position)
    largest = max(patients.values(), key=len)
    if 2 * len(largest) > len(positions):
        raise UserError(
            f"{records[largest[0]].source}: {len(largest)} of {len(positions)} questions with as many images are about "
            "this patient, so they cannot all get another's; take more records"
        )
    row = [position for members in patients.values() for position in members]
    return list(zip(row, row[len(largest) :] + row[: len(largest)], strict=True))


def _patient(record: Record) -> str:
    subject = record.columns.get("subject_id")
    return " ".join(image.key for image in record.images) if subject is None else str(subject)

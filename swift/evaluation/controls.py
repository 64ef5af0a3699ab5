"""Controls that separate looking at the image from knowing the language: questions shown with other images."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from swift.llm.dataset import Record
from swift.llm.images.masks import gray_image
from swift.llm.images.source import image_size
from swift.utils.errors import UserError
from utils.questions import cluster_of


def shuffle_images(records: Sequence[Record], seed: int) -> list[Record]:
    """The same questions in the same order, each with the images of a question about another patient.

    Images are permuted among questions with equally many, so every set of images is shown as often as before.
    A question that names no patient counts as one about the patient whose image it shows, if other questions tell, or
    else as one about the same patient as the questions that show its images. Deterministic in ``seed``.

    Raises UserError if one patient holds more than half of such questions.
    """
    shuffled, owners = list(records), _owners(records)
    rng = np.random.default_rng(seed)
    by_count: dict[int, list[int]] = defaultdict(list)
    for position, record in enumerate(records):
        by_count[len(record.images)].append(position)
    for count, positions in by_count.items():
        if count:
            for position, donor in _exchange(records, owners, positions, rng):
                shuffled[position] = replace(records[position], images=records[donor].images)
    return shuffled


def blank_images(records: Sequence[Record]) -> list[Record]:
    """The same questions, each image replaced by an evenly gray one of the same size."""
    return [replace(record, images=tuple(gray_image(*image_size(source)) for source in record.images))
            for record in records]  # fmt: skip


def _owners(records: Sequence[Record]) -> list[str]:
    """The patient of each record, or, if it names none, a label that records with the same images share."""
    owners = [cluster_of(record.columns, alone="") for record in records]
    by_image: dict[str, str] = {}
    for record, owner in zip(records, owners, strict=True):
        if owner:
            by_image |= {image.key: owner for image in record.images}
    for position, record in enumerate(records):
        if not owners[position]:
            keys = [image.key for image in record.images]
            owners[position] = next((by_image[key] for key in keys if key in by_image), f"images {' '.join(keys)}")
            by_image |= {key: owners[position] for key in keys if key not in by_image}
    return owners


def _exchange(
    records: Sequence[Record], owners: Sequence[str], positions: list[int], rng: np.random.Generator
) -> list[tuple[int, int]]:
    """(position, position of its new images): patients in a row in random order, turned by the largest patient."""
    patients: dict[str, list[int]] = defaultdict(list)
    for position in rng.permutation(positions).tolist():
        patients[owners[position]].append(position)
    largest = max(patients.values(), key=len)
    if 2 * len(largest) > len(positions):
        raise UserError(
            f"{records[largest[0]].source}: {len(largest)} of {len(positions)} questions with as many images are about "
            "this patient, so they cannot all get another's; take more records"
        )
    row = [position for members in patients.values() for position in members]
    return list(zip(row, row[len(largest) :] + row[: len(largest)], strict=True))

"""Identity of a question, in one place: its patient, its name, and the questions that belong together.

Files disagree on how they write the same patient: pandas turns whole numbers into decimal ones as soon as a value is
missing, and MIMIC puts a ``p`` before them in its folders. Sampling, splits, intervals and the image-swapping control
all use this module. A *question* is one object of an annotation, training or result file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

_NOBODY = {"", "nan", "none", "null"}  # the texts that a missing value leaves when it is turned into one

Question = Mapping[str, Any]
# Fields that name the images of a question, in order of preference: under a control, image_paths are those shown
IMAGE_NAMES = ("image_ids", "image_id", "images", "image", "image_name", "image_path", "image_paths")


def patient_of(question: Question) -> str | None:
    """The patient that ``subject_id`` names, None if it names nobody.

    10000032, 10000032.0, "10000032", "10000032.0", " 10000032 " and "p10000032" are the same patient. Other texts
    name a patient as they are, without blanks around them. A missing field, null, NaN, an empty text, and a value that
    is neither a number nor a text name nobody.
    """
    value = question.get("subject_id")
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    name = identifier_text(value, letter="p")
    return None if name.lower() in _NOBODY else name


def identifier_text(value: object, letter: str) -> str:
    """An identifier as text without blanks around it.

    The ``letter`` that MIMIC writes before the digits and an empty decimal part are removed. With the letter "s",
    50414267.0 and "s50414267" both become "50414267".
    """
    text = str(value).strip()
    digits = re.fullmatch(rf"{letter}?([0-9]+)(?:\.0+)?", text, re.IGNORECASE)
    return digits[1] if digits else text


def cluster_of(question: Question, alone: str) -> str:
    """A label that questions about the same patient share. A question without a patient gets the label ``alone``, which
    no other question should have."""
    patient = patient_of(question)
    return alone if patient is None else f"patient {patient}"


def patients(questions: Sequence[Question]) -> list[str]:
    """The cluster of each question, for intervals: its patient, else its images. A question without either is a cluster
    of its own."""
    return [
        cluster_of(question, _images_cluster(question) or f"position {position}")
        for position, question in enumerate(questions)
    ]


def _images_cluster(question: Question) -> str | None:
    names = next((question[field] for field in IMAGE_NAMES if question.get(field)), None)
    listed = names if isinstance(names, list | tuple) else [names]
    texts = [name.get("path") if isinstance(name, Mapping) else name for name in listed]
    known = all(isinstance(text, str | int) for text in texts)
    return f"images {' '.join(map(str, texts))}" if known else None


def clusters_in_words(questions: Sequence[Question]) -> str:
    """The number and kind of the clusters that intervals draw: "149 patients", or "80 images (no subject_id)"."""
    clusters = set(patients(questions))
    kinds = {cluster.split(" ", 1)[0] for cluster in clusters}
    if kinds == {"patient"}:
        return counted(len(clusters), "patient")
    if kinds == {"images"}:
        return f"{counted(len(clusters), 'image or pair')} (no subject_id)"
    if kinds == {"position"}:
        return f"{counted(len(clusters), 'question')} (no subject_id)"
    return f"{counted(len(clusters), 'patient')}, or images where there is no subject_id"


def counted(number: int, noun: str) -> str:
    """A number with its noun: "1 patient", "2 patients", "2 images or pairs"."""
    if number == 1:
        return f"1 {noun}"
    return f"{number} {' '.join(word if word == 'or' else f'{word}s' for word in noun.split())}"


def question_id(question: Question, position: int) -> Any:
    """The question's name in its file, as the file writes it: its ``idx``, else its ``id``, else its position."""
    return next((question[field] for field in ("idx", "id") if question.get(field) is not None), position)


def question_name(question: Question, position: int) -> str:
    """:func:`question_id` as text, by which questions of several files are matched."""
    return str(question_id(question, position))


def question_key(question: Question, wording: str, images: Sequence[str] = ()) -> tuple[str, str]:
    """The key that two records of the same question share: their ``idx``, or their ``images`` if they have none, and
    their ``wording``."""
    name = images if question.get("idx") is None else question["idx"]
    return str(name), wording


def group_rows(questions: Sequence[Question], field: str) -> dict[str, list[int]]:
    """Positions of the questions by their value of ``field`` as text. Questions without the field are left out.

    The most frequent value comes first, and equally frequent ones are in alphabetical order.
    """
    members: dict[str, list[int]] = {}
    for position, question in enumerate(questions):
        if question.get(field) is not None:
            members.setdefault(str(question[field]), []).append(position)
    return dict(sorted(members.items(), key=lambda item: (-len(item[1]), item[0])))

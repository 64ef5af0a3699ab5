"""The control with shuffled images: every question gets the images of another patient."""

from dataclasses import replace

import numpy as np
import pytest

from swift.evaluation.controls import shuffle_images
from swift.llm.dataset import Record
from swift.llm.images.source import ImageSource
from swift.utils.errors import UserError


def record(patient, *images, columns=None):
    sources = tuple(ImageSource.from_path(f"{name}.png") for name in images)
    columns = {"subject_id": patient} if columns is None else columns
    return Record(sources, ({"role": "user", "content": "?"},), None, columns, f"file record {patient}")


def shown(records):
    return [tuple(source.name for source in one.images) for one in records]


@pytest.mark.parametrize("seed", range(5))
def test_shuffling_gives_every_question_another_patients_images_and_loses_none(seed):
    rng = np.random.default_rng(seed)
    records = [record(p := int(rng.integers(6)), f"{p}-{n}") for n in range(30)]
    records += [record(p := int(rng.integers(6)), f"{p}-{n}-a", f"{p}-{n}-b") for n in range(20)]
    shuffled = shuffle_images(records, seed)
    for before, after, images in zip(records, shuffled, shown(shuffled), strict=True):
        assert len(images) == len(before.images)
        assert not images[0].startswith(f"{before.columns['subject_id']}-")
        assert replace(after, images=before.images) == before
    assert sorted(shown(shuffled)) == sorted(shown(records))


def test_shuffling_is_a_function_of_the_seed():
    records = [record(n, str(n)) for n in range(20)]
    assert shown(shuffle_images(records, 1)) == shown(shuffle_images(records, 1))
    assert shown(shuffle_images(records, 1)) != shown(shuffle_images(records, 2))


def test_without_a_subject_the_images_tell_patients_apart():
    shuffled = shuffle_images([record(0, name, columns={}) for name in "aabb"], 0)
    assert shown(shuffled) == [("b.png",), ("b.png",), ("a.png",), ("a.png",)]


def test_questions_without_images_stay_as_they_are():
    records = [record("a"), record("a")]
    assert shuffle_images(records, 0) == records


def test_one_patient_cannot_be_shuffled():
    with pytest.raises(UserError, match=r"2 of 3 questions.*take more records"):
        shuffle_images([record("a", "1"), record("a", "2"), record("b", "3")], 0)

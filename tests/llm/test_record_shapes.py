"""Record shapes, as one table: accepted or refused, with which images and which solution, and by every command."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

import pytest

import evaluate
from swift.cli import rlhf, sft
from swift.llm.dataset import ReadingRules, check_records, check_seen, load_records
from swift.llm.records.image_fields import IMAGE_FIELDS, canonical_name
from swift.utils.errors import UserError
from tests.support.builders import ROOT
from tests.support.datasets.record_shapes import ASKED, SHAPES, YES, Shape, record_of, write_images
from tools import sample_data

COUNT = 2  # records of a shape in a file
by_name = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A data folder with the images of all shapes, and a folder that is not a policy."""
    folder = tmp_path_factory.mktemp("shapes")
    write_images(folder)
    (folder / "policy").mkdir()
    (folder / "policy" / "config.json").write_text("not a model")
    return folder


def written(root: Path, shape: Shape, count: int = COUNT) -> Path:
    """A file with ``count`` records of a shape, whose questions differ."""
    records = [record_of(shape, root, number) for number in range(count)]
    path = root / "annotations" / "shape.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(records))
    return path


def counted(shape: Shape) -> str:
    return f"{COUNT} with {len(shape.images)} image{'s' * (len(shape.images) > 1)}"


def ending(capsys, caplog) -> str:
    """The messages of a command, on the screen and in its log."""
    return capsys.readouterr().err + caplog.text


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape.refused is None], ids=lambda shape: shape.name)
def test_a_shape_is_read(root, shape):
    records = load_records([written(root, shape)], require_solution=True)
    check_seen(records)
    check_records(records)
    assert [source.path.name if source.path else "" for source in records[0].images] == list(shape.images)
    assert records[0].solution == shape.solution
    assert ASKED in records[0].messages[-1]["content"]


@by_name
@pytest.mark.parametrize("command", ["rlhf", "sft"])
def test_training_reads_or_refuses_a_shape(root, shape, command, capsys, caplog):
    flags = ["--model", root / "policy", "--dataset", written(root, shape), "--output_dir", root / "run"]
    if command == "rlhf":
        flags += ["--external_plugins", ROOT / "plugin.py", "--reward_funcs", "external_r1v_acc", "external_kg_jac"]
    caplog.set_level(logging.INFO, "chex")
    assert {"rlhf": rlhf, "sft": sft}[command].main(list(map(str, [*flags, "--use_cpu"]))) == 2
    said = ending(capsys, caplog)
    if shape.refused is None:
        assert f"{COUNT} training records: {counted(shape)}" in said
        assert "config.json" in said, "the data are accepted, and the model is missing"
    else:
        assert shape.refused in said
        assert "config.json" not in said


@by_name
def test_evaluation_reads_or_refuses_a_shape(root, shape, capsys, caplog):
    flags = ["--model_path", root / "policy", "--annotation_file", written(root, shape), "--output_dir", root / "eval"]
    assert evaluate.main(list(map(str, flags))) == 2
    screen = capsys.readouterr()
    if shape.refused is None:
        assert screen.out.strip().endswith(counted(shape))
        assert "config.json" in screen.err, "the questions are accepted, and the model is missing"
    else:
        assert shape.refused in screen.err
        assert "config.json" not in screen.err


@by_name
def test_sampling_reads_or_refuses_a_shape(root, shape, capsys):
    flags = ["--source", written(root, shape), "--sizes", COUNT, "--root", root, "--shared_patients", "allow"]
    status = sample_data.main(list(map(str, [*flags, "--overwrite"])))
    screen = capsys.readouterr()
    if shape.refused is not None:
        assert status == 2
        assert shape.refused in screen.err
        return
    assert counted(shape) in screen.out
    (record, _) = load_records([root / "annotations" / "uniform" / f"{COUNT}.json"])
    assert [source.path.name if source.path else "" for source in record.images] == list(shape.images)
    assert record.solution == shape.solution


@by_name
def test_no_shape_is_used_blind_without_a_message(root, shape, caplog):
    """Without a refusal, every field that holds an image file is read."""
    if shape.refused is None:
        (record, _) = load_records([written(root, shape)])
        assert record.images
        assert record.unread == ()


def test_the_table_is_long_enough():
    assert len(SHAPES) >= 30
    assert len({shape.name for shape in SHAPES}) == len(SHAPES)


def test_links_are_followed_if_the_user_says_so(root):
    shape = next(shape for shape in SHAPES if shape.name == "a link that leaves the folder")
    (record, _) = load_records([written(root, shape)], reading=ReadingRules(allow_links=True))
    assert record.images[0].path == root / "outside" / "o.png"
    assert record.solution == YES


def test_the_user_may_name_the_image_fields(root):
    shape = Shape("named", {"question": ASKED, "answer": ["yes"], "image": "a.png", "prior": "b.png"})
    file = written(root, shape)
    (both, _) = load_records([file], reading=ReadingRules(image_fields=("prior", "image")))
    assert [source.path.name for source in both.images] == ["b.png", "a.png"]
    (one, _) = load_records([file], reading=ReadingRules(image_fields=("image",)))
    assert [source.path.name for source in one.images] == ["a.png"]
    check_seen([both, one])


@pytest.mark.parametrize("record", [
    {"text1": ASKED, "scan": "a.png", "text2": YES},
    {"text1": ASKED, "scan": "a.png", "text2": YES, "images": [], "response": None},
    {"text1": ASKED, "scan": "a.png", "response": YES},
])  # fmt: skip
def test_fields_may_be_given_other_names(root, record):
    names = {"text1": "query", "scan": "images", "text2": "response"}
    (found, _) = load_records([written(root, Shape("named", record))], reading=ReadingRules(columns=names))
    assert [source.path.name for source in found.images] == ["a.png"]
    assert found.solution == YES
    assert ASKED in found.messages[-1]["content"]
    check_seen([found])


def test_a_name_that_is_taken_is_refused(root):
    shape = Shape("named", {"text1": "Is it?", "query": ASKED, "images": ["a.png"], "answer": ["yes"]})
    with pytest.raises(UserError, match="field 'query' holds a value of its own, and --columns names 'text1' so"):
        load_records([written(root, shape)], reading=ReadingRules(columns={"text1": "query"}))


def test_two_fields_may_change_names(root):
    shape = Shape("named", {"image": ASKED, "question": "a.png", "answer": ["yes"]})
    names = {"image": "question", "question": "image"}
    (found, _) = load_records([written(root, shape)], reading=ReadingRules(columns=names))
    assert [source.path.name for source in found.images] == ["a.png"]


def test_the_page_for_users_names_every_image_field():
    words = re.findall(r"`(\w+)`", (ROOT / "docs" / "training.md").read_text())
    assert set(IMAGE_FIELDS) <= {canonical_name(word) for word in words}


@pytest.mark.parametrize(
    ("part", "expected"),
    [("#2", [0, 1]), ("#1", [0]), ("#9", [0, 1, 2]), ("#2!0", [0, 2]), ("", [0, 1, 2])],
    ids=["the first two", "the first", "more than there are", "two random ones", "all"],
)
def test_a_part_of_a_file_is_read(root, part, expected):
    file = written(root, SHAPES[0], count=3)
    records = load_records([f"{file}{part}"])
    assert [record.columns["idx"] for record in records] == expected
    assert all(str(file) in record.source for record in records)


def test_random_parts_of_other_seeds_differ(root):
    file = written(root, SHAPES[0], count=40)
    drawn = [[record.columns["idx"] for record in load_records([f"{file}#10!{seed}"])] for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(drawn[0])) == 10


def test_a_file_whose_name_ends_like_a_part_is_read_whole(root):
    file = written(root, SHAPES[0], count=3)
    whole = file.rename(file.with_name("odd.json#1"))
    assert len(load_records([whole])) == 3


@pytest.mark.parametrize(
    "wrap",
    [lambda rows: {"results": rows}, lambda rows: {"name": "x", "data": rows}, lambda rows: rows],
    ids=["results", "data", "a list"],
)
def test_records_within_an_object_are_read(root, wrap):
    file = root / "annotations" / "wrapped.json"
    records = [record_of(SHAPES[0], root, number) for number in range(3)]
    for indent in (None, 1):
        file.write_text(json.dumps(wrap(records), indent=indent))
        assert len(load_records([file])) == 3


def linked(root: Path, name: str) -> tuple[Path, str]:
    """A file that asks about an image behind a link, and the words of the refusal without --allow_links."""
    shape = Shape("linked", {"question": ASKED, "answer": ["yes"], "image": name})
    return written(root, shape), "it is a link: pass --allow_links true"


def test_a_folder_that_is_a_link_is_followed_by_flag_alone(root):
    (root / "images" / "elsewhere").symlink_to(root / "outside", target_is_directory=True)
    file, words = linked(root, "elsewhere/o.png")
    with pytest.raises(UserError, match=words):
        load_records([file])
    (record, _) = load_records([file], reading=ReadingRules(allow_links=True))
    check_records([record])


def test_a_link_whose_file_was_never_fetched_says_so(root):
    (root / "images" / "annexed.png").symlink_to(root / "objects" / "sha.png")
    file, words = linked(root, "annexed.png")
    with pytest.raises(UserError, match=words):
        load_records([file])
    with pytest.raises(UserError, match=r"annexed.png is a link to a file that is not there; fetch it"):
        check_records(load_records([file], reading=ReadingRules(allow_links=True)))


def test_a_path_that_climbs_out_is_refused_with_links_too(root):
    file, _ = linked(root, "../outside/o.png")
    with pytest.raises(UserError, match="leads outside the image root"):
        load_records([file], reading=ReadingRules(allow_links=True))

"""Data sets with wrong values anywhere: read, or refused in one line."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from swift.llm.dataset import ReadingRules, check_records, check_seen, load_records
from tests.support.fuzzing.values import SCALARS, TEXTS, VALUES, damaged, documents, fuzz, json_bytes, mutated, refusal
from utils.metrics import reference_answers

IMAGE_PART = {"type": "image_url", "image_url": {"url": "a.png"}}
RECORDS = [
    {"images": ["a.png"], "messages": [{"role": "user", "content": "<image>Is there an effusion?"}], "idx": 1,
     "solution": "<think>There is a small effusion.</think><answer>yes</answer>", "subject_id": 10000032,
     "answer": ["yes"]},
    {"image_ids": ["a"], "question": "Which side?", "answer": "left", "study_id": "s5", "explanation": None},
    {"conversations": [{"from": "human", "value": "Is it large?"}, {"from": "gpt", "value": "no"}],
     "image": {"path": "a.png"}},
    {"messages": [{"role": "user", "content": [IMAGE_PART, {"type": "text", "text": "What is it?"}]}],
     "answer": [True, 3, 2.5]},
    {"query": "Why?", "response": "Because.", "images": [{"bytes": "AAAA", "path": None}], "system": "s",
     "history": [["a", "b"]]},
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    (folder / "images").mkdir()
    Image.new("L", (30, 30)).save(folder / "images" / "a.png")
    return folder


def read(path) -> str | None:
    """The refusal of a file of records, read as training and evaluation read it."""

    def records():
        read = load_records([path], reading=ReadingRules(path.parent / "images"))
        check_seen(read)
        check_records(read, decode=False)
        for record in read:
            try:
                reference_answers(record.columns)
            except ValueError:
                continue

    return refusal(records)


def written(folder, name: str, content: bytes):
    path = folder / name
    path.write_bytes(content)
    return path


def test_what_is_mutated_here_is_read_as_it_is(folder):
    for record in RECORDS[:4]:
        assert read(written(folder, "d.json", json_bytes([record]))) is None


@fuzz(300)
@given(content=st.one_of(*(documents([record]) for record in RECORDS)))
@example(content=b'[{"query": "Why?", "image": "a.png", "history": true}]')
def test_a_json_list_of_records(folder, content):
    read(written(folder, "d.json", content))


@fuzz(150)
@given(lines=st.lists(st.one_of(*map(mutated, RECORDS), VALUES).map(json_bytes), max_size=4), end=st.binary(max_size=9))
@example(lines=[b"5"], end=b"")
@example(lines=[b'{"question": "\xff"}'], end=b"")
def test_json_lines_of_records(folder, lines, end):
    read(written(folder, "d.jsonl", b"\n".join(lines) + end))


@st.composite
def tables(draw) -> bytes:
    """CSV of a few columns that records have, with any cells."""
    names = draw(st.lists(st.sampled_from(["question", "answer", "image_path", "solution", "idx"]) | TEXTS, max_size=5))
    rows = draw(st.lists(st.lists(SCALARS | TEXTS, max_size=6), max_size=4))
    stream = io.StringIO()
    csv.writer(stream, delimiter=draw(st.sampled_from(",;\t"))).writerows([names, *rows])
    return stream.getvalue().encode("utf-8", "surrogatepass")


@fuzz(200)
@given(content=st.one_of(tables(), damaged(b"question,answer,image_path\nIs there?,\"['yes']\",a.png\n")))
@example(content=b"")
@example(content=b"sep=\r\n")
@example(content=b'question\n"')
def test_a_table_of_records(folder, content):
    read(written(folder, "d.csv", content))


@fuzz(60)
@given(rows=st.lists(st.dictionaries(st.sampled_from(["question", "answer", "images", "idx"]), SCALARS), max_size=3),
       damage=st.none() | st.integers(0, 2**32))  # fmt: skip
def test_a_parquet_file_of_records(folder, rows, damage):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed; it is optional")
    from pyarrow import parquet

    names = ("question", "answer")
    columns = {name: [repr(row.get(name)).encode("utf-8", "replace").decode() for row in rows] for name in names}
    parquet.write_table(pyarrow.table(columns), folder / "d.parquet")
    if damage is not None:
        data = bytearray((folder / "d.parquet").read_bytes())
        data[damage % len(data)] ^= 1 + damage % 255
        written(folder, "d.parquet", bytes(data))
    read(folder / "d.parquet")

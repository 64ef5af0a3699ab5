import base64
import json
from pathlib import Path

import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from swift.llm.dataset import load_records
from swift.llm.records.files import read_items
from swift.utils.errors import UserError


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "images").mkdir()
    for name in ("a.png", "b.png"):
        Image.new("L", (8, 8), 90).save(tmp_path / "images" / name)
    return tmp_path


def rows(path: Path, text: str) -> list[dict]:
    path.write_text(text, encoding="utf-8")
    return [item for item, _ in read_items(path)]


def test_a_csv_of_pandas_is_read(folder):
    file = folder / "train.csv"
    file.write_text(
        ",image_path,question,answer,subject_id\n"
        "0,a.png,\"Which sides, if any?\",\"['left', 'right']\",10000032.0\n"
        "1,b.png,Is it there?,[],10000032.0\n"
    )
    records = load_records([file])
    assert [record.columns["answer"] for record in records] == [["left", "right"], []]
    assert records[0].messages[-1]["content"].endswith("Which sides, if any?")
    assert [[source.path.name for source in record.images] for record in records] == [["a.png"], ["b.png"]]


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ("yes", "yes"),
        ("3", "3"),
        ('"[""left"", ""right""]"', ["left", "right"]),
        ("\"{'path': 'a.png'}\"", {"path": "a.png"}),
        ("[FINDINGS] no effusion [end]", "[FINDINGS] no effusion [end]"),
        ('"two\nlines"', "two\nlines"),
        ("a\x00b", "a\x00b"),
        ("['left lung' 'right lung']", ["left lung", "right lung"]),
        ("\"['left lung'\n 'right lung']\"", ["left lung", "right lung"]),
        ("True", True),
        ("[NaN]", [None]),
        ("[1e999]", [None]),
        ("[" * 100_000 + "]" * 100_000, "[" * 100_000 + "]" * 100_000),
    ],
)
def test_cells_of_csv(tmp_path, cell, value):
    assert rows(tmp_path / "a.csv", f"question,answer\nq,{cell}\n")[0]["answer"] == value


def test_an_empty_cell_is_a_missing_value(tmp_path):
    assert rows(tmp_path / "a.tsv", "question\timages\tanswer\nq\t\tyes\n") == [{"question": "q", "answer": "yes"}]


def test_a_part_of_a_table_is_read(tmp_path):
    (tmp_path / "a.csv").write_text("question,answer\none,1\ntwo,2\nthree,3\n")
    assert [item["question"] for item, _ in read_items(f"{tmp_path / 'a.csv'}#2")] == ["one", "two"]


def test_parquet_with_embedded_images_is_read(folder):
    data = (folder / "images" / "a.png").read_bytes()
    table = {
        "image": [{"bytes": data, "path": "gone.png"}] * 2,
        "question": ["Is there an effusion?", "Which sides?"],
        "answer": ["no", "left"],
        "weight": [float("nan"), 2.0],
    }
    parquet.write_table(pyarrow.table(table), folder / "train.parquet")
    records = load_records([folder / "train.parquet"])
    assert [record.images[0].data for record in records] == [data, data]
    assert [record.solution for record in records] == ["<answer>no</answer>", "<answer>left</answer>"]
    assert ["weight" in record.columns for record in records] == [False, True]


def test_values_of_parquet_can_be_written_as_json(tmp_path):
    table = {
        "question": ["q"],
        "day": pyarrow.array([20_000], pyarrow.date32()),
        "raw": [b"\x00\x01"],
        "list": [[1, 2]],
    }
    parquet.write_table(pyarrow.table(table), tmp_path / "a.parquet")
    ((item, _),) = read_items(tmp_path / "a.parquet")
    assert json.loads(json.dumps(item)) == {
        "question": "q", "day": "2024-10-04", "raw": base64.b64encode(b"\x00\x01").decode(), "list": [1, 2],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", b"question,answer\nq,yes,no\n", "more cells than columns at line 2"),
        ("a.csv", b'question,answer\nq,"yes\n', "malformed at line"),
        ("a.csv", b"question,answer\nq,\xff\n", "not UTF-8"),
        ("a.parquet", b"PAR1 nothing", "cannot be read as Parquet"),
        ("a.csv", b"question,answer\n", "holds no records"),
        ("a.csv", b"question,answer,answer\nq,a,b\n", "two columns 'answer'"),
        ("a.csv", b'question,answer\nq,a\nq,"b" c\n', "malformed at line 3.*double the quotes"),
        ("a.csv", b"\x1f\x8b\x08", "is compressed; unpack it"),
        ("a.csv", b"PK\x03\x04", "Excel workbook"),
        ("a.json", b"ARROW1", "is an Arrow file"),
        ("a.txt", b"question,answer\nq,a\n", "or a table whose name ends in .csv"),
    ],
)
def test_a_bad_table_is_one_line(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=said) as caught:
        load_records([tmp_path / name])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "\ufeffquestion;answer\r\nq, r;yes\r\n;\r\n"),
        ("a.csv", "sep=;\r\nquestion;answer\r\nq, r;yes\r\n"),
        ("a.csv", "question\tanswer\nq, r\tyes\n"),
        ("a.tsv", 'question,answer\n"q, r",yes\n'),
        ("a.csv", 'question,answer,,\n"q, r",yes,,\n,,,\n'),
        ("a.csv", '[{"question": "q, r", "answer": "yes"}]'),
        ("a.CSV", '{"question": "q, r", "answer": "yes"}\n'),
    ],
    ids=["semicolons", "the line of Excel", "tabs", "commas", "empty columns and rows", "JSON", "JSON lines"],
)
def test_tables_as_other_programs_write_them(tmp_path, name, text):
    assert rows(tmp_path / name, text) == [{"question": "q, r", "answer": "yes"}]


def test_parquet_under_another_name_is_read(tmp_path):
    parquet.write_table(pyarrow.table({"question": ["q"]}), tmp_path / "a.json")
    assert [item for item, _ in read_items(tmp_path / "a.json")] == [{"question": "q"}]


@pytest.mark.parametrize("kind", [pyarrow.timestamp("ns"), pyarrow.duration("ns"), pyarrow.time64("ns")])
def test_times_that_python_cannot_hold_are_read(tmp_path, kind):
    table = {"question": ["q"], "when": pyarrow.array([1_700_000_000_123], pyarrow.int64()).cast(kind)}
    parquet.write_table(pyarrow.table(table), tmp_path / "a.parquet")
    assert "when" in read_items(tmp_path / "a.parquet")[0][0]


def test_turns_may_have_nulls_in_place_of_the_other_form(folder):
    turns = [
        {"role": None, "content": None, "from": "human", "value": "Is there an effusion?"},
        {"role": "assistant", "content": "no", "from": None, "value": None},
    ]
    parquet.write_table(pyarrow.table({"image": ["a.png"], "conversations": [turns]}), folder / "train.parquet")
    (record,) = load_records([folder / "train.parquet"])
    assert record.messages[-1]["content"].endswith("Is there an effusion?")
    assert record.solution == "no"

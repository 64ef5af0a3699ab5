"""Graph files of the audit tools: kept, gone on with, refused, never half written."""

import hashlib
import json

import pytest

from tests.support.graphs import EMPTY, make_graph
from tools.kg_audit import graph_files as kg_files
from tools.kg_audit.graph_files import (
    NamedTexts,
    info_path,
    make_graphs,
    partial_graphs_path,
    read_graphs,
    read_graphs_of,
)
from utils import get_knowledge_graph as door
from utils.get_knowledge_graph import extract_knowledge_graph, extractor_name

pytestmark = pytest.mark.usefixtures("lexicon")

SMALL = "There is a small left pleural effusion."
NONE = "No pneumothorax is seen."
TEXTS = NamedTexts(["1", "2", "3", "4", "5"], [SMALL, NONE, "", "The heart is enlarged.", SMALL], "results.json")


@pytest.fixture
def extracted(monkeypatch):
    """The texts that were extracted, batch by batch, two at a time."""
    batches = []

    def extract(texts):
        batches.append(texts)
        return extract_knowledge_graph(texts)

    monkeypatch.setattr(kg_files, "extract_knowledge_graph", extract)
    monkeypatch.setattr(kg_files, "CHUNK", 2)
    return batches


def test_a_graph_file_is_a_json_list_in_order_with_positions_as_keys(tmp_path, extracted):
    make_graphs(tmp_path / "new" / "x_kg.json", TEXTS)
    assert json.loads((tmp_path / "new" / "x_kg.json").read_text()) == extract_knowledge_graph(TEXTS.texts)
    assert extracted == [TEXTS.texts[:2], TEXTS.texts[2:4], TEXTS.texts[4:]]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["x_kg.info.json", "x_kg.json"]


def test_the_record_says_what_a_graph_file_was_made_from(tmp_path):
    path = tmp_path / "x_kg.json"
    make_graphs(path, TEXTS)
    info = json.loads(info_path(path).read_text())
    assert info["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (info["extractor"], info["graphs"], info["names"]) == (extractor_name(), 5, TEXTS.names)
    assert info["source"] == "results.json"


def test_a_file_of_the_same_texts_is_kept(tmp_path, extracted):
    path = tmp_path / "x_kg.json"
    make_graphs(path, TEXTS)
    before, done = path.stat(), len(extracted)
    make_graphs(path, NamedTexts(TEXTS.names, TEXTS.texts, "the same texts elsewhere"))
    assert path.stat() == before
    assert len(extracted) == done


def test_without_resume_everything_is_extracted_again(tmp_path, extracted):
    path = tmp_path / "x_kg.json"
    make_graphs(path, TEXTS)
    make_graphs(path, TEXTS, resume=False)
    assert len(extracted) == 6


class Killed(Exception):
    pass


@pytest.fixture
def cut(tmp_path, extracted, monkeypatch):
    """A run that was killed in its second batch, after two graphs."""
    path = tmp_path / "x_kg.json"
    with monkeypatch.context() as during:

        def extract(texts):
            if len(extracted) == 1:
                raise Killed
            extracted.append(texts)
            return extract_knowledge_graph(texts)

        during.setattr(kg_files, "extract_knowledge_graph", extract)
        with pytest.raises(Killed):
            make_graphs(path, TEXTS)
    extracted.clear()
    assert not path.exists()
    return path


@pytest.mark.parametrize("tail", [b"", b'{"sentences": "no pneumo'])
def test_a_cut_run_goes_on_after_its_last_whole_graph(cut, extracted, tail):
    with open(partial_graphs_path(cut), "ab") as file:
        file.write(tail)
    make_graphs(cut, TEXTS)
    assert extracted == [TEXTS.texts[2:4], TEXTS.texts[4:]]
    assert read_graphs(cut) == extract_knowledge_graph(TEXTS.texts)
    assert not partial_graphs_path(cut).exists()


def test_without_resume_a_cut_run_starts_afresh(cut, extracted):
    make_graphs(cut, TEXTS, resume=False)
    assert extracted == [TEXTS.texts[:2], TEXTS.texts[2:4], TEXTS.texts[4:]]


def test_a_run_cut_before_its_first_line_starts_afresh(cut, extracted):
    partial_graphs_path(cut).write_bytes(b'{"texts": "ab')
    make_graphs(cut, TEXTS)
    assert read_graphs(cut) == extract_knowledge_graph(TEXTS.texts)


OTHERS = NamedTexts(TEXTS.names, [*TEXTS.texts[:4], NONE], "other.json")
RENAMED = NamedTexts(TEXTS.names[::-1], TEXTS.texts, "other.json")


@pytest.mark.parametrize("texts", [OTHERS, RENAMED])
def test_what_was_made_of_other_texts_is_refused_or_overwritten(tmp_path, texts, extracted):
    path = tmp_path / "x_kg.json"
    make_graphs(path, texts)
    for resume in (True, False):
        with pytest.raises(ValueError, match=r"other texts, of other\.json; pass --overwrite"):
            make_graphs(path, TEXTS, resume=resume)
    assert read_graphs(path) == extract_knowledge_graph(texts.texts)
    make_graphs(path, TEXTS, overwrite=True)
    assert read_graphs(path) == extract_knowledge_graph(TEXTS.texts)


def test_what_was_begun_with_other_texts_is_refused_or_overwritten(cut):
    for resume in (True, False):
        with pytest.raises(ValueError, match=r"partial.*begun with other texts.*--overwrite"):
            make_graphs(cut, OTHERS, resume=resume)
    make_graphs(cut, OTHERS, overwrite=True)
    assert read_graphs(cut) == extract_knowledge_graph(OTHERS.texts)


def test_graphs_of_another_extractor_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "x_kg.json"
    make_graphs(path, TEXTS)
    (tmp_path / "own.tsv").write_text("widget\tdevice\n", encoding="utf-8")
    monkeypatch.setenv("REXKG_TERMS", str(tmp_path / "own.tsv"))
    door._extractor.cache_clear()
    with pytest.raises(ValueError, match=r"was made by lexicon-.*now lexicon-"):
        make_graphs(path, TEXTS)


@pytest.mark.parametrize("spoil", ["graphs", "record", "record's form"])
def test_a_file_that_is_not_as_it_was_written_is_refused(tmp_path, spoil):
    path = tmp_path / "x_kg.json"
    make_graphs(path, TEXTS)
    if spoil == "graphs":
        path.write_text(path.read_text().replace("effusion", "edema"))
    elif spoil == "record":
        info_path(path).unlink()
    else:
        info_path(path).write_text("[]")
    with pytest.raises(ValueError, match="pass --overwrite"):
        make_graphs(path, TEXTS)


def test_half_a_surrogate_pair_survives_the_file(tmp_path):
    texts = NamedTexts(["1"], ["left-\ud800 effusion\u2028"], "x")
    make_graphs(tmp_path / "x.json", texts)
    assert read_graphs(tmp_path / "x.json") == extract_knowledge_graph(texts.texts)


def test_no_texts_give_an_empty_list(tmp_path):
    make_graphs(tmp_path / "x.json", NamedTexts([], [], "x"))
    assert read_graphs(tmp_path / "x.json") == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", ["cannot be read"]),
        ("{}", ["not a JSON list"]),
        ("[3]", ["graph 0", "not an object"]),
        ([EMPTY, {"entities": {}}], ["graph 1", "'relations'"]),
        ([EMPTY, EMPTY], ["graph 1", "'doc_key'"]),
        ([make_graph({"effusion": "disorder"})], ["graph 0", "'disorder'"]),
        ([make_graph({}, [("a", "b", "made_of")])], ["graph 0", "'made_of'"]),
        ([EMPTY | {"relations": [{"type": "modify"}]}], ["graph 0", "source_entity"]),
    ],
)
def test_a_file_that_holds_no_graphs_is_named_with_the_graph_and_field(tmp_path, content, words):
    path = tmp_path / "x.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ValueError, match="graph file") as error:
        read_graphs(path)
    assert all(word in str(error.value) for word in [str(path), *words])


def test_graphs_made_for_other_questions_are_refused(tmp_path):
    path = tmp_path / "x.json"
    make_graphs(path, TEXTS)
    assert read_graphs_of(path, TEXTS.names, TEXTS) == read_graphs(path)
    with pytest.raises(ValueError, match="5 graphs for 4"):
        read_graphs_of(path, TEXTS.names[:4])
    with pytest.raises(ValueError, match="other questions"):
        read_graphs_of(path, TEXTS.names[::-1])
    with pytest.raises(ValueError, match="other texts"):
        read_graphs_of(path, TEXTS.names, OTHERS)


def test_graphs_without_a_record_are_taken_with_a_warning(tmp_path, caplog):
    path = tmp_path / "x.json"
    make_graphs(path, TEXTS)
    info_path(path).unlink()
    kg_files.logger.addHandler(caplog.handler)
    try:
        assert len(read_graphs_of(path, TEXTS.names, TEXTS)) == 5
    finally:
        kg_files.logger.removeHandler(caplog.handler)
    assert "x.info.json" in caplog.text

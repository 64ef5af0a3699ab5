"""The common entry to the extractors: order, keys, choice of extractor, independence of the batch."""

import subprocess
import sys

import pytest

from tests.support.pure_checkpoint import Naive, random_sentences, write_checkpoint
from utils import get_knowledge_graph as door
from utils.get_knowledge_graph import extract_knowledge_graph, extractor_name

TEXTS = [
    "There is a small left pleural effusion. No pneumothorax is seen.",
    "",
    "The heart is mildly enlarged.",
    "There is a small left pleural effusion.",
]


@pytest.fixture(autouse=True)
def fresh_extractor(monkeypatch):
    monkeypatch.delenv("REXKG_EXTRACTOR", raising=False)
    monkeypatch.delenv("REXKG_TERMS", raising=False)
    monkeypatch.delenv("REXKG_DIR", raising=False)
    door._extractor.cache_clear()
    yield
    door._extractor.cache_clear()


def test_one_graph_per_text_in_order_with_its_position_as_key():
    graphs = extract_knowledge_graph(TEXTS)
    assert [graph["doc_key"] for graph in graphs] == ["0", "1", "2", "3"]
    assert set(graphs[0]["entities"]) == {"small", "left", "pleural", "effusion", "pneumothorax"}
    assert set(graphs[2]["entities"]) == {"heart", "mildly", "enlarged"}


def test_a_graph_has_exactly_the_published_fields():
    for graph in extract_knowledge_graph(TEXTS):
        assert set(graph) == {"sentences", "entities", "relations", "doc_key"}
        assert all(set(r) == {"source_entity", "target_entity", "type"} for r in graph["relations"])


def test_an_empty_text_has_an_empty_graph():
    assert extract_knowledge_graph([""])[0] == {"sentences": "", "entities": {}, "relations": [], "doc_key": "0"}


def test_no_texts_no_graphs():
    assert extract_knowledge_graph([]) == []


def test_the_graph_of_a_text_does_not_depend_on_its_batch():
    together = extract_knowledge_graph(TEXTS)
    for text, graph in zip(TEXTS, together, strict=True):
        assert extract_knowledge_graph([text])[0] | {"doc_key": graph["doc_key"]} == graph


def test_changing_a_graph_does_not_change_the_next_one():
    first = extract_knowledge_graph(TEXTS[:1])[0]
    first["entities"]["effusion"] = "spoilt"
    first["relations"][0]["type"] = "spoilt"
    assert "spoilt" not in str(extract_knowledge_graph(TEXTS[:1]))


def test_the_extractor_is_built_once_per_process():
    extract_knowledge_graph(TEXTS)
    built = door._extractor(None)
    extract_knowledge_graph(TEXTS)
    assert door._extractor(None) is built


def test_the_name_says_lexicon_and_which_vocabulary(monkeypatch, tmp_path):
    name = extractor_name()
    assert name.startswith("lexicon-")
    own = tmp_path / "own.tsv"
    own.write_text("frobnicator\tdevice\n", encoding="utf-8")
    monkeypatch.setenv("REXKG_TERMS", str(own))
    door._extractor.cache_clear()
    assert extractor_name() != name
    assert extract_knowledge_graph(["A frobnicator."])[0]["entities"] == {"frobnicator": "devices_present"}


def test_an_unknown_choice_names_the_right_ones(monkeypatch):
    monkeypatch.setenv("REXKG_EXTRACTOR", "nueral")
    with pytest.raises(ValueError, match="auto, neural, lexicon"):
        extract_knowledge_graph(["No effusion."])


@pytest.fixture
def no_published_weights(monkeypatch, tmp_path):
    monkeypatch.setattr(door, "PUBLISHED_PLACE", tmp_path / "test_REXKG")
    return tmp_path / "test_REXKG"


def test_auto_takes_the_neural_extractor_where_its_weights_are(monkeypatch, no_published_weights):
    assert extractor_name().startswith("lexicon-")
    write_checkpoint(no_published_weights / "result1")
    door._extractor.cache_clear()
    assert extractor_name().startswith("neural-")
    monkeypatch.setenv("REXKG_EXTRACTOR", "lexicon")
    door._extractor.cache_clear()
    assert extractor_name().startswith("lexicon-")


def test_the_folder_of_the_models_and_the_device_can_be_named(monkeypatch, no_published_weights, tmp_path):
    monkeypatch.setenv("REXKG_DIR", str(write_checkpoint(tmp_path / "mine")))
    texts = random_sentences(5)
    assert extract_knowledge_graph(texts, device="cpu") == Naive(tmp_path / "mine")(texts)


@pytest.mark.parametrize(("choice", "folder"), [("neural", None), ("neural", "nowhere"), ("auto", "nowhere")])
def test_neural_models_that_are_asked_for_must_be_there(monkeypatch, no_published_weights, choice, folder):
    monkeypatch.setenv("REXKG_EXTRACTOR", choice)
    if folder:
        monkeypatch.setenv("REXKG_DIR", folder)
    with pytest.raises(ValueError, match=f"{folder or 'test_REXKG'} holds no run_entity and run_relation"):
        extract_knowledge_graph(["No effusion."])


def test_the_log_says_which_extractor_is_used(caplog):
    door.logger.addHandler(caplog.handler)
    try:
        with caplog.at_level("INFO", logger=door.logger.name):
            extract_knowledge_graph(["No effusion."])
    finally:
        door.logger.removeHandler(caplog.handler)
    assert extractor_name() in caplog.text


def test_the_lexicon_needs_neither_the_trainer_nor_torch():
    code = (
        "import sys; from utils.get_knowledge_graph import extract_knowledge_graph as read; read(['no effusion']);"
        "print({m.split('.')[0] for m in sys.modules} & {'swift', 'torch', 'transformers'})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"

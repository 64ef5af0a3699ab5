"""Texts for the extractor, reports, and annotations for its training: read, or refused in one line."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ReXKG.graph import ENTITY_TYPES
from ReXKG.neural.annotations import read_annotations
from tests.support.fuzzing.values import TEXTS, damaged, documents, fuzz, refusal
from utils.answers import parse_answers, think_text
from utils.get_knowledge_graph import extract_knowledge_graph
from utils.mimic import read_reports, report_text

LANGUAGE = """no not without small left right bilateral pleural effusion effusions opacity heart is are normal enlarged
there of in the and or but , . ; : ( ) ? - / FINDINGS: IMPRESSION: <think> </think> <answer> </answer> yes tube 5.2
resolved may cannot be excluded neither nor versus ' " \u2014"""
WORDS = st.sampled_from([*LANGUAGE.split(), "\n", "\n\n", "\u00a0", "\u200b", "\u0301"])
PROSE = st.one_of(
    st.lists(WORDS, max_size=60).map(" ".join), st.text(max_size=200), st.lists(TEXTS, max_size=5).map(" ".join)
)
DOCUMENT = {
    "doc_key": "7", "sentences": [["small", "effusion", "on", "the", "left"], ["no", "edema"]],
    "ner": [[[0, 0, "concept"], [1, 1, "disorder_present"]], [[6, 6, "disorder_notpresent"]]],
    "relations": [[[0, 0, 1, 1, "modify"]], []],
}  # fmt: skip


@pytest.fixture(autouse=True)
def with_lexicon(lexicon):
    """The built-in extractor."""


@fuzz(300)
@given(text=PROSE)
@example(text="no " * 2000)
@example(text="(" * 5000)
def test_the_extractor_reads_any_text(text):
    (graph,) = extract_knowledge_graph([text])
    assert set(graph["entities"].values()) <= set(ENTITY_TYPES)
    assert {end for r in graph["relations"] for end in (r["source_entity"], r["target_entity"])} <= set(
        graph["entities"]
    )
    json.dumps(graph)
    assert isinstance(parse_answers(text), frozenset)
    assert think_text(text) in text


@fuzz(200)
@given(text=PROSE)
def test_a_report_gives_a_part_of_its_text(text):
    assert set(report_text(text).split()) <= set(text.split()) | set(text.replace(":", " ").split()) or report_text(
        text
    )


@fuzz(150)
@given(content=st.one_of(documents([{"study_id": 7, "report": "Edema"}, {"study_id": "s2", "report": "Nodule"}]),
                         damaged(b'study_id,report\n7,"Edema, large"\n')),
       ending=st.sampled_from(["json", "jsonl", "csv"]))  # fmt: skip
def test_files_of_reports(tmp_path_factory, content, ending):
    path = tmp_path_factory.mktemp("reports", numbered=True) / f"r.{ending}"
    path.write_bytes(content)
    refusal(lambda: read_reports(path), ValueError)


@fuzz(250)
@given(content=st.one_of(documents(DOCUMENT), documents(DOCUMENT).map(lambda line: line + b"\n" + line)))
@example(content=b"5")
@example(content=b'{"sentences": [[]], "ner": [[]], "relations": [[]]}')
def test_annotation_files(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "annotations.jsonl"
    path.write_bytes(content)
    if refusal(lambda: read_annotations(path), ValueError) is None:
        for sentence in read_annotations(path):
            assert all(0 <= mention.start <= mention.end < len(sentence.words) for mention in sentence.mentions)

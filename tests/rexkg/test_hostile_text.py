"""Hostile text: extraction never raises, and its work grows no faster than the text."""

import json
import random
import sys
import time

import pytest

from bench.kg.hostile import HOSTILE, hostile
from ReXKG.dot import to_dot
from ReXKG.graph import ENTITY_TYPES
from ReXKG.lexicon.extractor import LexiconExtractor
from ReXKG.terminal import format_graph
from ReXKG.text import split_sentences, tokenize
from utils.answers import answer_span, first_sentence, has_think_answer_shape, think_text
from utils.mimic import report_text


def read(text):
    """Every step between a completion or a report and its graph, its drawing and its print."""
    for find in FINDERS:
        find(text)
    graph = EXTRACTOR([text])[0]
    format_graph(graph)
    to_dot(graph, text)
    return graph


# These do their work inside single calls of Python's own library, where steps cannot be counted.
FINDERS = (
    think_text, answer_span, first_sentence, has_think_answer_shape, report_text,
    lambda text: [tokenize(sentence) for sentence in split_sentences(text)],
)  # fmt: skip
EXTRACTOR = LexiconExtractor()


@pytest.mark.parametrize("name", HOSTILE)
def test_searches_in_long_text_end(name):
    text = hostile(name, 300_000)
    start = time.process_time()
    for find in FINDERS:
        find(text)
    # Linear search takes some hundredths of a second. A quadratic one, "<think>(.*?)</think>", took over a minute.
    assert time.process_time() - start < 10


@pytest.mark.parametrize("name", HOSTILE)
def test_long_text_is_read_without_error(name):
    graph = read(hostile(name, 100_000))
    assert set(graph) == {"sentences", "entities", "relations", "doc_key"}
    assert set(graph["entities"].values()) <= set(ENTITY_TYPES)
    assert json.loads(json.dumps(graph)) == graph


def steps(text):
    """Lines of Python that reading ``text`` executes: a measure of work that no other load on the machine disturbs."""
    count = 0

    def trace(frame, event, argument):
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        EXTRACTOR([text])
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("name", HOSTILE)
def test_four_times_the_text_takes_at_most_four_times_the_steps(name):
    few, many = (steps(hostile(name, length)) for length in (1_000, 4_000))
    # A unit cut in two at the end, and words met for the first time, may add a little.
    assert many <= 4 * few + 300


def test_a_hundred_thousand_words_without_a_full_stop_are_one_sentence():
    graph = read("small left pleural effusion " * 25_000)
    assert graph["entities"] == EXTRACTOR(["small left pleural effusion"])[0]["entities"]
    assert len(graph["sentences"].split()) == 100_000


def test_one_word_of_a_megabyte_is_one_word():
    graph = read("effusion " + "x" * 1_000_000)
    assert graph["entities"] == {"effusion": "disorder_present"}
    assert len(graph["sentences"]) == 1_000_009


def test_random_bytes_and_random_characters_are_read():
    rng = random.Random(5)
    for _ in range(300):
        length = rng.randrange(200)
        read(rng.randbytes(length).decode("latin-1"))
        read("".join(chr(rng.randrange(sys.maxunicode + 1)) for _ in range(length)))


def test_mixtures_of_hostile_texts_are_read():
    rng = random.Random(6)
    for _ in range(100):
        read("".join(hostile(rng.choice(list(HOSTILE)), 30) for _ in range(60)))


def test_hostile_text_does_not_change_the_graphs_beside_it():
    expected = EXTRACTOR(["There is a small effusion."])[0]
    for name in HOSTILE:
        text = hostile(name, 200)
        assert EXTRACTOR([text, "There is a small effusion.", text])[1] == expected | {"doc_key": "1"}

"""The lexicon extractor against hand-made graphs, and promises about its vocabulary."""

import random
from pathlib import Path

import pytest

from ReXKG.graph import ENTITY_TYPES, RELATION_TYPES
from ReXKG.lexicon import attachment, cues
from ReXKG.lexicon.extractor import LexiconExtractor
from ReXKG.lexicon.lexicon_files import CUES_FILE, LEXICON_FILE, TERM_LABELS, read_cues
from ReXKG.lexicon.polarity.rules import POLARITY_RULES
from ReXKG.lexicon.vocabulary import Vocabulary
from ReXKG.sentence_cache import CACHED_SENTENCES
from ReXKG.text import split_sentences, tokenize

TYPES = {
    "A": "anatomy", "C": "concept", "D": "disorder_present", "N": "disorder_notpresent", "P": "procedures",
    "S": "size", "V": "devices_present", "X": "devices_notpresent",
}  # fmt: skip
RELATIONS = {">": "modify", "@": "located_at", "~": "suggestive_of"}
EXTRACTOR = LexiconExtractor()


def read_table():
    group, rows = "", []
    path = Path(__file__).parent / "report_sentences.tsv"
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            group = line[2:]
        elif line:
            sentence, entities, relations, *_ = [*line.split("\t"), "", ""]
            rows.append(pytest.param(sentence, entities, relations, id=f"{group}: {sentence}"))
    return rows


TABLE = read_table()


def parse_entities(cell):
    return {text.replace("_", " "): TYPES[kind] for kind, text in (item.split(":") for item in cell.split())}


def parse_relations(cell):
    triples = set()
    for item in cell.split():
        mark = next(character for character in item if character in RELATIONS)
        source, target = item.replace("_", " ").split(mark)
        triples.add((source, target, RELATIONS[mark]))
    return triples


def read(text):
    return EXTRACTOR([text])[0]


def triples(graph):
    return {(r["source_entity"], r["target_entity"], r["type"]) for r in graph["relations"]}


@pytest.mark.parametrize(("sentence", "entities", "relations"), TABLE)
def test_sentence_has_the_graph_a_careful_annotator_would_draw(sentence, entities, relations):
    graph = read(sentence)
    assert graph["entities"] == parse_entities(entities)
    if relations != "?":
        assert triples(graph) == parse_relations(relations)


@pytest.mark.parametrize(
    ("texts", "disorder"),
    [
        ("No effusion is seen. There is a small effusion.", "disorder_present"),
        ("There is a small effusion. No effusion is seen.", "disorder_notpresent"),
    ],
)
def test_of_two_sentences_the_later_one_decides(texts, disorder):
    assert read(texts)["entities"]["effusion"] == disorder


def test_negation_ends_with_its_sentence():
    entities = read("No effusion. Pneumothorax! No mass; edema! Consolidation")["entities"]
    assert entities == {
        "effusion": "disorder_notpresent", "pneumothorax": "disorder_present", "mass": "disorder_notpresent",
        "edema": "disorder_present", "consolidation": "disorder_present",
    }  # fmt: skip


def test_case_and_markup_do_not_matter():
    plain = read("there is a left effusion")
    for text in (
        "There is a LEFT Effusion.",
        "<think>There is a left effusion.</think>",
        "There is a **left** effusion;",
    ):
        assert read(text)["entities"] == plain["entities"]
        assert triples(read(text)) == triples(plain)


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("consolidations", "disorder_present"),  # plural of a known noun
        ("biopsies", "procedures"),
        ("lung's", "anatomy"),
        ("air-space", "anatomy"),  # a known word without its hyphen
        ("left-predominant", "concept"),
        ("hydro-pneumothorax", "disorder_present"),
        ("perilobular", "anatomy"),  # by its ending
        ("tracheobronchitis", "disorder_present"),
        ("bilobectomy", "procedures"),
        ("3-mm", "size"),
        ("12mm", "size"),
        ("t4-t5", "anatomy"),  # both parts are
        ("midesophagus", "anatomy"),  # a prefix before a known word
        ("nonaerated", "concept"),
        ("asymmetrically", "concept"),  # the adverb of a known adjective
        ("cervicothoracic", "anatomy"),
        ("fibrinous", "concept"),
        ("(effusion),", "disorder_present"),
    ],
)
def test_words_outside_the_lexicon_are_understood_by_form(word, kind):
    assert list(read(f"a {word}")["entities"].values()) == [kind]


@pytest.mark.parametrize(
    "text",
    [
        "the patient's name", "seen and noted again", "12 2019", "this, that or the other", "yes", "FINDINGS:",
        "on ___ at 10:30 am", "as above", "likely reflecting", "further information", "the diagnosis",
    ],
)  # fmt: skip
def test_words_that_annotators_leave_out_are_no_entities(text):
    assert not set(read(text)["entities"]) - {"patient's"}


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("a 3 cm mass", "3 cm"),
        ("a 2.5 x 3.1 cm mass", "2.5 x 3.1 cm"),
        ("a 4 mm x 5 mm mass", "4 mm x 5 mm"),
        ("a 5-6 mm mass", "5-6 mm"),
        ("a mass of 3 x", None),
        ("rib 7 on film 12", None),
    ],
)
def test_a_size_is_a_number_with_a_unit(text, size):
    sizes = [word for word, kind in read(text)["entities"].items() if kind == "size"]
    assert sizes == ([size] if size else [])


def random_text(rng, words):
    alphabet = [
        "no", "effusion", "left", "pleural", "tube", "removal", "resolved", "not seen", ",", "and", ".", ";", "3", "cm",
        "x", "in", "with", "likely", "is", "mild", "-", "/", "\n", "🫁", "\x00", "<b>", "胸水", "épanchement", "3.5",
    ]  # fmt: skip
    return " ".join(rng.choice(alphabet) for _ in range(words))


def test_every_relation_joins_two_different_entities_of_its_text():
    rng = random.Random(3)
    for _ in range(500):
        graph = read(random_text(rng, 40))
        assert set(graph["entities"].values()) <= set(ENTITY_TYPES)
        for source, target, kind in triples(graph):
            assert source in graph["entities"]
            assert target in graph["entities"]
            assert source != target
            assert kind in RELATION_TYPES


def test_graphs_do_not_depend_on_batch_order_or_what_was_read_before():
    rng = random.Random(4)
    texts = [random_text(rng, 30) for _ in range(100)]
    alone = [LexiconExtractor()([text])[0] for text in texts[:10]]
    order = rng.sample(range(100), 100)
    shuffled = EXTRACTOR([texts[i] for i in order])
    for position, i in enumerate(order):
        assert shuffled[position] | {"doc_key": ""} == EXTRACTOR([texts[i]])[0] | {"doc_key": ""}
    for graph, text in zip(alone, texts, strict=False):
        assert graph == EXTRACTOR([text])[0]


def test_memory_is_bounded_over_distinct_sentences():
    extractor = LexiconExtractor()
    extractor([f"effusion {number}q" for number in range(CACHED_SENTENCES + 1000)])
    assert len(extractor.cache) == CACHED_SENTENCES


def test_a_sentence_of_absurd_length_is_not_remembered():
    extractor = LexiconExtractor()
    extractor(["effusion " * 10_000])
    assert len(extractor.cache) == 0


def test_a_remembered_sentence_is_read_once(monkeypatch):
    extractor = LexiconExtractor()
    sentences = []
    read = extractor._read
    monkeypatch.setattr(extractor, "_read", lambda sentence: sentences.append(sentence) or read(sentence))
    assert extractor(["No mass.No mass.", "No mass."])[1] == extractor(["", "No mass."])[1]
    assert sentences == ["No mass"]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One is here. Two is here.", ["One is here", " Two is here"]),
        ("A 3.5 cm mass. No more", ["A 3.5 cm mass", " No more"]),
        ("Seen at 4. 5 ribs.", ["Seen at 4", " 5 ribs"]),
        ("one\nsentence", ["one\nsentence"]),
        ("<think>Clear.</think><answer>no</answer>", ["Clear", "no"]),
        ("...", []),
        ("", []),
    ],
)
def test_sentences_end_at_dots_outside_numbers(text, sentences):
    assert split_sentences(text) == sentences


def test_one_word_sentences_can_be_left_out_as_published():
    assert split_sentences("Cardiomegaly. No effusion.", minimum_words=2) == [" No effusion"]


@pytest.mark.parametrize(
    ("sentence", "words"),
    [
        (
            "No effusion, mass/nodule (or edema)",
            ["no", "effusion", ",", "mass", "/", "nodule", "(", "or", "edema", ")"],
        ),
        ("Size: 3.5 cm?", ["size", ":", "3.5", "cm", "?"]),
        ("end. Begin", ["end", ".", "begin"]),
        ("right-sided\ttube", ["right-sided", "tube"]),
    ],
)
def test_words_are_cut_as_published(sentence, words):
    assert tokenize(sentence) == words


def test_a_users_lexicon_adds_and_overrides_terms(tmp_path):
    own = tmp_path / "own.tsv"
    own.write_text("# own rows\nwidget line\tdevice\neffusion\tconcept\tnoun\n", encoding="utf-8")
    extractor = LexiconExtractor(own)
    assert extractor(["No widget line, small effusion"])[0]["entities"] == {
        "widget line": "devices_notpresent", "small": "concept", "effusion": "concept",
    }  # fmt: skip
    assert extractor.name != EXTRACTOR.name


def test_a_state_takes_its_type_from_what_it_is_said_of(tmp_path):
    own = tmp_path / "own.tsv"
    own.write_text("droopy\tconcept\tstate\nlung ... droopy\tdisorder\tstate\n", encoding="utf-8")
    extractor = LexiconExtractor(own)
    for text, kind in (
        ("The lung is slightly droopy.", "disorder_present"),
        ("The lung is not droopy.", "disorder_notpresent"),
        ("The aorta is droopy.", "concept"),
        ("The aorta is not droopy.", "disorder_notpresent"),
        ("No droopy aorta.", "concept"),
    ):
        assert extractor([text])[0]["entities"]["droopy"] == kind


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ("widget device", "line 2.*no tab"),
        ("\tdevice", "line 2.*begins with a tab"),
        ("widget\tgadget", "line 2.*'gadget'.*anatomy"),
        ("widget\tconcept\tboss", "line 2.*'boss'.*side"),
        ("a+b\tconcept", "line 2.*2 parts but 1 types"),
    ],
)
def test_a_bad_row_is_named_with_its_line(tmp_path, row, complaint):
    own = tmp_path / "own.tsv"
    own.write_text(f"# own rows\n{row}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=complaint):
        Vocabulary(own)


def test_a_missing_lexicon_is_named(tmp_path):
    with pytest.raises(ValueError, match="absent"):
        Vocabulary(tmp_path / "absent.tsv")


def test_the_lexicon_is_sorted_within_blocks_and_has_no_term_twice():
    blocks = [
        [line.split("\t") for line in block.splitlines() if line[:1] not in "#"]
        for block in LEXICON_FILE.read_text().split("\n\n")
    ]
    terms = [row[0] for block in blocks for row in block]
    assert len(terms) == len(set(terms))
    for block in blocks:
        assert block == sorted(block, key=lambda row: row[0])
        assert all(kind in TERM_LABELS for row in block for kind in row[1].split("+"))


def test_every_cue_has_rows_and_a_rule():
    phrases = read_cues(CUES_FILE)
    rows = [line for line in CUES_FILE.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    assert len(phrases) == len(rows)
    assert set(phrases.values()) == set(cues.CUES)
    # "before", "fits" and "fills" are read elsewhere (see cues.py), and "plain" means that no rule applies.
    elsewhere = {cues.BEFORE, cues.FITS, cues.FILLS, cues.PLAIN}
    assert {*POLARITY_RULES, *attachment.ATTACHMENT_RULES} | elsewhere == set(cues.CUES)


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        (
            "no longer\tnegate_before",
            r"own\.tsv, line 2: cue 'negate_before' of 'no longer' is unknown; use one of negates",
        ),
        ("no longer\t", r"own\.tsv, line 2: cue '' of 'no longer' is unknown"),
        ("no longer", r"own\.tsv, line 2: 'no longer' has no tab; write phrase<TAB>cue"),
    ],
)
def test_a_cue_that_no_rule_knows_is_named_with_its_line(tmp_path, row, complaint):
    own = tmp_path / "own.tsv"
    own.write_text(f"no\tnegates\n{row}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=complaint):
        read_cues(own)

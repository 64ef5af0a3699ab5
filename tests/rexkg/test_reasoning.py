"""Sentences of reasoning models: the lexicon extractor knows which findings they assert, deny and leave open."""

from pathlib import Path

import pytest

from ReXKG.graph import ASSERTED_TYPES, DENIED_TYPES
from ReXKG.lexicon.extractor import LexiconExtractor
from ReXKG.lexicon.lexicon_files import CONTRACTIONS_FILE, read_contractions
from ReXKG.lexicon.wording import read_words, split_statements, word_origins
from ReXKG.text import tokenize

EXTRACTOR = LexiconExtractor()
SENTENCES = Path(__file__).parent / "reasoning_sentences.tsv"


def read_sentences():
    """The text of each row, and the readings that are right by term."""
    rows = []
    for line in SENTENCES.read_text(encoding="utf-8").splitlines():
        text, _, facts = line.partition("\t")
        if facts and not line.startswith("# "):
            expected = dict(fact.replace("_", " ").split("=") for fact in facts.split())
            rows.append((text.replace("\\n", "\n"), expected))
    return rows


def verdict(graph, term):
    label = graph["entities"].get(term)
    return "present" if label in ASSERTED_TYPES else "absent" if label in DENIED_TYPES else "none"


def say(text, term="pneumonia"):
    return verdict(EXTRACTOR([text])[0], term)


def test_sentences_say_what_a_careful_reader_takes_them_to_say():
    rows = read_sentences()
    wrong = [
        f"{text!r}: {term} is {said}, not {verdicts}"
        for (text, expected), graph in zip(rows, EXTRACTOR([text for text, _ in rows]), strict=True)
        for term, verdicts in expected.items()
        if (said := verdict(graph, term)) not in verdicts.split("|")
    ]
    assert not wrong, "\n".join(wrong)


def test_no_sentence_is_in_the_table_twice():
    texts = [text for text, _ in read_sentences()]
    assert sorted(texts) == sorted(set(texts))


# Phrases of the public list of NegEx (Chapman et al. 2001), in sentences of our own.
PERSONS = ("", " him", " her", " the patient")
DENYING_BEFORE = (
    "absence of", "denies", "denied", "denying", "declines", "fails to reveal", "free of", "negative for",
    "never developed", "never had", "no", "no abnormal", "no cause of", "no complaints of", "no evidence of",
    "no evidence to suggest", "no findings of", "no findings to indicate", "no history of", "no new evidence of",
    "no other evidence of", "no radiographic evidence of", "no significant", "no signs of", "no suggestion of",
    "no suspicious", "not", "not appear", "not appreciate", "not associated with", "not complain of",
    "not demonstrate", "not exhibit", "not feel", "not had", "not have", "not have evidence of", "not know of",
    "not known to have", "not reveal", "not see", "not to be", "was not", "rather than", "resolved", "clear of",
    "unremarkable for", "with no", "without", "without any evidence of", "without indication of", "lack of",
    "lacked", "inconsistent with", "doesn't look like", "isn't", "cannot see",
    *(
        f"{verb}{person} out{preposition}"
        for verb in ("adequate to rule", "can rule", "did rule", "sufficient to rule", "ruled", "rules")
        for person in PERSONS
        for preposition in ("", " for", " against")
    ),
)  # fmt: skip
DENYING_AFTER = (
    "unlikely", "was negative", "is negative", "has been negative", "was ruled out", "is ruled out", "are ruled out",
    "has been ruled out", "have been ruled out", "no longer present", "now resolved", "prophylaxis", "is absent",
)  # fmt: skip
PSEUDO = (
    "no change in", "no increase in", "no significant change in", "no interval change in", "no definite change in",
    "no suspicious change in", "no further", "not able to be", "not certain if", "not certain whether", "not cause",
    "not necessarily", "without any further", "without difficulty", "without further", "not only", "not drain",
    "not extend", "gram negative", "not rule out", "might not",
)  # fmt: skip
POSSIBLE_AFTER = (
    "not ruled out", "not been ruled out", "did not rule out", "being ruled out", "could be ruled out",
    "is to be ruled out", "may be ruled out", "might be ruled out", "must be ruled out", "ought to be ruled out",
    "should be ruled out", "will be ruled out",
)  # fmt: skip


@pytest.mark.parametrize("phrase", DENYING_BEFORE)
def test_a_denying_phrase_denies_what_follows(phrase):
    assert say(f"The chest film {phrase} pneumonia") == "absent"


@pytest.mark.parametrize("phrase", DENYING_AFTER)
def test_a_denying_phrase_denies_what_comes_before(phrase):
    assert say(f"The heart is enlarged, and pneumonia {phrase}.") == "absent"


@pytest.mark.parametrize("phrase", PSEUDO)
def test_a_pseudo_negation_denies_nothing(phrase):
    assert say(f"The chest film {phrase} pneumonia") == "present"


@pytest.mark.parametrize("phrase", POSSIBLE_AFTER)
def test_what_may_be_there_counts_as_present(phrase):
    assert say(f"Pneumonia {phrase}.") == "present"


@pytest.mark.parametrize("task", ["Rule out", "Please exclude", "r/o", "Evaluate for", "Checked for", "CT to exclude"])
def test_a_task_asserts_nothing(task):
    assert say(f"{task} pneumonia.") == "none"


@pytest.mark.parametrize("apostrophe", "'’ʼ´`")
def test_contractions_are_read_with_any_apostrophe(apostrophe):
    assert say(f"There isn{apostrophe}t any pneumonia") == "absent"


def test_every_contraction_is_written_out_in_known_words():
    for contraction, words in read_contractions(CONTRACTIONS_FILE).items():
        assert read_words(f"so {contraction} here")[1] == ["so", *words, "here"]


def test_a_line_broken_by_its_width_goes_on():
    entities = EXTRACTOR(["There is no evidence of a consolidation, of a pleural\neffusion, or\npneumothorax"])[0][
        "entities"
    ]
    assert {entities[word] for word in ("consolidation", "effusion", "pneumothorax")} == {"disorder_notpresent"}


def test_the_sentence_of_a_graph_is_that_of_the_text():
    """Marks for lines and written-out contractions are for the rules alone."""
    text = "- There isn't an effusion\n- Edema"
    assert EXTRACTOR([text])[0]["sentences"] == " ".join(tokenize(text))


def test_no_relation_names_what_was_left_out():
    graph = EXTRACTOR(["To see whether there is a small left effusion, I look at the sharp angles"])[0]
    assert "effusion" not in graph["entities"]
    assert graph["relations"]
    for relation in graph["relations"]:
        assert {relation["source_entity"], relation["target_entity"]} <= set(graph["entities"])


def test_a_question_leaves_out_all_that_it_names_until_it_is_answered():
    assert not EXTRACTOR(["Is there an effusion in the left lung?"])[0]["entities"]
    answered = EXTRACTOR(["Is there an effusion in the left lung? Yes"])[0]["entities"]
    assert answered == {"effusion": "disorder_present", "left": "concept", "lung": "anatomy"}


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("Options:\nA. Edema\nB. Mass", ["Options:\nA) Edema\nB) Mass"]),
        ("I look for edema. None is seen. No mass.", ["I look for edema ; None is seen", " No mass"]),
        ("Edema. No effusion. Yes-man.", ["Edema", " No effusion", " Yes-man"]),
    ],
)
def test_options_and_replies_end_no_sentence(text, sentences):
    assert split_statements(text) == sentences


@pytest.mark.parametrize(
    ("text", "origins"),
    [
        ("No effusion", [0, 1]),
        ("isn't edema", [0, 0, 1]),
        ("edema—no; mass", [0, 0, 0, 0, 1]),
        ("- edema\n- mass", [1, 1, 3]),
    ],
)
def test_words_know_the_plain_word_that_they_come_from(text, origins):
    assert word_origins(text, tokenize(text)) == origins

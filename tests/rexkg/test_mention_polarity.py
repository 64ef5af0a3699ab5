"""The rules of polarity for the mentions of the neural extractor (REXKG_POLARITY=rules)."""

import pytest

from ReXKG.lexicon.mention_polarity import MentionPolarity
from ReXKG.neural.extractor import NeuralExtractor
from ReXKG.neural.folders import find_models
from ReXKG.neural.mentions import Mention
from ReXKG.text import tokenize
from tests.support.pure_checkpoint import random_sentences, write_checkpoint
from utils.get_knowledge_graph import _extractor

RULES = MentionPolarity()
FINDINGS = {"disorder_present", "disorder_notpresent", "devices_present", "devices_notpresent"}


def decide(sentence, term, label="disorder_present"):
    """The label of a mention of ``term``, which the lexicon need not know."""
    words, parts = tokenize(sentence), term.split()
    start = next(i for i in range(len(words)) if words[i : i + len(parts)] == parts)
    return RULES.decide(sentence, [Mention(start, start + len(parts) - 1, label)])[0]


@pytest.mark.parametrize(
    ("sentence", "label"),
    [
        ("There is a zorble sign", "disorder_present"),
        ("I don’t see a zorble sign", "disorder_notpresent"),
        ("Zorble sign: no", "disorder_notpresent"),
        ("- No effusion\n- Zorble sign", "disorder_present"),
        ("Is there a zorble sign? The lungs are clear", None),
        ("No pneumothorax, small zorble sign", "disorder_present"),
    ],
)
@pytest.mark.parametrize("predicted", ["disorder_present", "disorder_notpresent"])
def test_rules_decide_what_a_finding_asserts_whatever_the_model_said(sentence, label, predicted):
    assert decide(sentence, "zorble sign", predicted) == label


def test_a_device_stays_a_device():
    assert decide("No zorble is seen", "zorble", "devices_present") == "devices_notpresent"


@pytest.mark.parametrize("label", ["anatomy", "concept", "procedures", "size"])
def test_other_mentions_keep_their_label(label):
    assert decide("Is there no zorble?", "zorble", label) == label


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return find_models(write_checkpoint(tmp_path_factory.mktemp("pure")))


def test_graphs_differ_from_the_model_s_in_the_labels_of_findings_alone(folders):
    by_model, by_rules = NeuralExtractor(folders, "cpu"), NeuralExtractor(folders, "cpu", polarity=RULES)
    changed = 0
    for sentence in random_sentences(200):
        model, rules = by_model([sentence])[0], by_rules([sentence])[0]
        assert rules["sentences"] == model["sentences"]
        for text, label in model["entities"].items():
            if label not in FINDINGS:
                assert rules["entities"][text] == label
            elif text in rules["entities"]:
                assert rules["entities"][text].split("_")[0] == label.split("_")[0]
                changed += rules["entities"][text] != label
        assert set(rules["entities"]) <= set(model["entities"])
        kept = [r for r in model["relations"] if {r["source_entity"], r["target_entity"]} <= set(rules["entities"])]
        assert rules["relations"] == kept
    assert changed


def test_an_answer_further_on_is_read_with_its_question(folders):
    by_rules = NeuralExtractor(folders, "cpu", polarity=RULES)
    by_rules(["Is there edema? The vessels are sharp. So no. Alone. No mass."])
    assert by_rules.cache.sentences() == ["Is there edema? So no ; The vessels are sharp", " No mass"]


def test_the_name_tells_that_rules_decide(folders):
    by_model, by_rules = NeuralExtractor(folders, "cpu"), NeuralExtractor(folders, "cpu", polarity=RULES)
    assert by_rules.name == f"{by_model.name}-{RULES.name}"


def test_an_unknown_polarity_is_one_line_that_names_the_choices(monkeypatch):
    monkeypatch.setenv("REXKG_POLARITY", "rule")
    _extractor.cache_clear()
    with pytest.raises(ValueError, match="REXKG_POLARITY='rule' is unknown: use one of model, rules"):
        _extractor(None)

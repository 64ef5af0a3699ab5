"""Truth tables of the rewards in plugin.py. A row is (completion, solution, score, reason)."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

import plugin
from swift.llm.dataset import Record
from swift.llm.images.source import ImageSource
from swift.llm.template.protocol import EncodedPrompt
from swift.plugin import orms
from swift.plugin.rewards import build_rewards, reward_matrix
from swift.trainers.data import PromptItem
from swift.trainers.rlhf_trainer.rollout import reward_columns
from swift.utils.errors import UserError
from tests.support.builders import random_completions
from utils.answers import normalise_answers, parse_answers, think_text

ACCURACY = [
    ("asdf", "<answer>yes</answer>", 0.0, "garbage"),
    ("", "<answer>yes</answer>", 0.0, "an empty completion says nothing"),
    ("<answer>yes</answer>", "<answer>yes</answer>", 1.0, "the same answer"),
    ("<answer>no</answer>", "<answer>yes</answer>", 0.0, "the other answer"),
    ("<think>no</think><answer> YES </answer>", "<think>x</think><answer>yes</answer>", 1.0, "trimmed, lower-cased"),
    ("<answer>left lung, heart</answer>", "<answer>heart,spine</answer>", 1.0, "one item shared is enough"),
    ("<answer>left lung</answer>", "<answer>lung</answer>", 0.0, "items are compared whole, never as substrings"),
    ("<answer>abnormal</answer>", "<answer>no</answer>", 0.0, "'no' inside another word is not an answer"),
    ("<answer>yes.</answer>", "<answer>yes</answer>", 1.0, "a full stop at the end of an answer does not count"),
    ("<answer>a\nb</answer>", "<answer>a\nb</answer>", 1.0, "a span may hold a line break"),
    ("<answer>no</answer><answer>yes</answer>", "<answer>yes</answer>", 0.0, "only the first span counts"),
    ("<answer>yes, no</answer>", "<answer>yes</answer>", 1.0, "known hole: both answers always win"),
    ("<answer>yes, no</answer>", "<answer>no</answer>", 1.0, "known hole: both answers always win"),
    ("<answer></answer>", "<answer></answer>", 1.0, "nothing to list and nothing listed"),
    ("<answer> , </answer>", "<answer></answer>", 1.0, "blanks and commas list nothing"),
    ("<answer>edema</answer>", "<answer></answer>", 0.0, "something listed where there is nothing"),
    ("<answer></answer>", "<answer>edema</answer>", 0.0, "nothing listed where there is something"),
    ("asdf", "<answer></answer>", 0.0, "garbage is no empty answer"),
    ("Yes. The heart is large.", "yes! It is.", 1.0, "prose: the first sentences agree"),
    ("No. The heart is small.", "Yes. It is large.", 0.0, "prose: the first sentences differ"),
    ("是？后文", "是。前文", 1.0, "full-width sentence ends"),
    ("Is it? yes", "yes. a", 0.0, "prose: later sentences do not count"),
    ("yes", "<answer>yes</answer>", 1.0, "a completion without a span gives its first sentence"),
    ("<answer>yes", "<answer>yes</answer>", 0.0, "a span cut off before its end is no span"),
    ("<think>a</think><answer>yes</answer>", "Yes. It is large.", 1.0, "a completion's span counts against prose too"),
]


@pytest.mark.parametrize(("completion", "solution", "expected", "reason"), ACCURACY)
def test_accuracy_truth_table(completion, solution, expected, reason):
    assert plugin.MultiModalAccuracyORM()([completion], solution=[solution]) == [expected], reason


def test_each_completion_is_scored_against_its_own_solution():
    # The published reward used the first sample's truth for the whole batch.
    completions = ["<answer>yes</answer>", "<answer>no</answer>", "<answer>yes</answer>"]
    solutions = ["<answer>yes</answer>", "<answer>no</answer>", "<answer>no</answer>"]
    assert plugin.MultiModalAccuracyORM()(completions, solution=solutions) == [1.0, 1.0, 0.0]


def test_answers_of_an_annotation_follow_the_same_rule():
    assert normalise_answers([" Yes", "yes", ""]) == parse_answers("<answer>yes</answer>") == {"yes"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("no tags", "no tags"),
        ("<think> a </think><answer>b</answer>", "a"),
        ("<think>cut off", "<think>cut off"),
        ("x<think>a</think>y<think>b</think>", "a"),
    ],
)
def test_think_text_is_the_first_span_or_everything(text, expected):
    assert think_text(text) == expected


class WordGraphs:
    """Extractor for tests: each word is an entity, each 'a:b' is also a relation. It records its calls."""

    def __init__(self):
        self.calls: list[list[str]] = []

    def __call__(self, texts: list[str]) -> list[dict]:
        self.calls.append(texts)
        return [self.graph(text) for text in texts]

    def graph(self, text: str) -> dict:
        pairs = [word.split(":") for word in text.split() if ":" in word]
        words = {part for word in text.split() for part in word.split(":")}
        relations = [{"source_entity": a, "target_entity": b, "type": "modify"} for a, b in pairs]
        return {"sentences": text, "entities": dict.fromkeys(words, "concept"), "relations": relations, "doc_key": "0"}


# Score = mean of entity Jaccard and relation Jaccard; an empty union counts 1.
KNOWLEDGE = [
    ("<think>asdf</think>", "<think>a:b</think>", 0.0, "garbage: entities 0/3, relations 0/1"),
    ("<think>a:b</think>", "<think>a:b</think>", 1.0, "the same graph"),
    ("<think>a b</think>", "<think>a:b</think>", 0.5, "entities 2/2, relations 0/1"),
    ("<think>a:b c</think>", "<think>a:b</think>", 5 / 6, "entities 2/3, relations 1/1"),
    ("<think>b:a</think>", "<think>a:b</think>", 0.5, "a relation has a direction"),
    ("<think>a</think><answer>b</answer>", "<think>a</think><answer>c</answer>", 1.0, "answers are not read"),
    ("a:b", "<think>a:b</think>", 1.0, "no think span: the whole text"),
    ("asdf", "a", 0.5, "known hole: no relation on either side counts as agreement"),
    ("<think></think>", "<think></think>", 1.0, "two empty graphs agree"),
]


@pytest.mark.parametrize(("completion", "solution", "expected", "reason"), KNOWLEDGE)
def test_knowledge_graph_truth_table(completion, solution, expected, reason):
    assert plugin.KnowledgeGraphORM(WordGraphs())([completion], solution=[solution]) == pytest.approx([expected]), (
        reason
    )


def test_knowledge_graph_scores_each_completion_against_its_own_solution():
    reward = plugin.KnowledgeGraphORM(WordGraphs())
    assert reward(["a", "b", "a"], solution=["a", "b", "b"]) == [1.0, 1.0, 0.5]


def test_knowledge_graph_extracts_once_a_call_and_keeps_references():
    extract = WordGraphs()
    reward = plugin.KnowledgeGraphORM(extract)
    reward(["a", "b", "a"], solution=["r", "r", "s"])
    reward(["c", "r"], solution=["s", "r"])
    assert extract.calls == [["a", "b", "r", "s"], ["c"]]


def test_knowledge_graph_keeps_a_bounded_number_of_references():
    extract = WordGraphs()
    reward = plugin.KnowledgeGraphORM(extract)
    reward.cached_references = 2
    assert reward(["x"] * 3, solution=["x", "y", "z"]) == [1.0, 0.5, 0.5]
    assert set(reward.references) == {"y", "z"}


def test_kg_text_whole_reads_the_completion_whole_and_the_reference_in_part(monkeypatch):
    monkeypatch.setenv("KG_TEXT", "whole")
    reward = plugin.KnowledgeGraphORM(WordGraphs())
    # "<think>", "a", "</think>", "b" against "a": entities 1/4, relations 0/0.
    assert reward(["<think> a </think> b"], solution=["<think>a</think> b"]) == [0.625]


def test_knowledge_graph_reads_reports_with_the_extractor_of_this_repository():
    truth = "<think>Small right pleural effusion. No pneumothorax.</think>"
    others = ["<think>No pneumothorax. Small right pleural effusion.</think>", "<think>No pleural effusion.</think>"]
    same, contradicting = plugin.KnowledgeGraphORM()(others, solution=[truth, truth])
    assert same == 1.0
    assert contradicting < 0.5


def test_unknown_kg_text_is_refused(monkeypatch):
    monkeypatch.setenv("KG_TEXT", "half")
    with pytest.raises(ValueError, match=r"KG_TEXT='half'.*KG_TEXT=think"):
        plugin.KnowledgeGraphORM(WordGraphs())


FORMAT = [
    ("asdf", 0.0, "garbage"),
    ("<think>a</think><answer>b</answer>", 1.0, "the shape"),
    (" <think>a\nb</think>\n<answer>c</answer>\n", 1.0, "blanks around and line breaks inside"),
    ("<think></think><answer></answer>", 1.0, "shape says nothing of content"),
    ("<answer>b</answer><think>a</think>", 0.0, "wrong order"),
    ("<think>a</think>", 0.0, "no answer"),
    ("<think>a</think>so<answer>b</answer>", 0.0, "words between"),
    ("<think>a</think><answer>b</answer>!", 0.0, "words after"),
    ("<think>a</think><answer>b</answer><answer>c</answer>", 0.0, "two answers"),
    ("<think>a<think>b</think><answer>c</answer>", 0.0, "a tag inside a span"),
]


@pytest.mark.parametrize(("completion", "expected", "reason"), FORMAT)
def test_format_truth_table(completion, expected, reason):
    assert plugin.MathFormatORM()([completion]) == [expected], reason


ANSWERS = "yes, no, m, f, ap, pa, left lung, right lung, effusion, edema, nodule, heart"  # a whole vocabulary

# (completion, solution, published score, strict score, reason)
STRICT_ACCURACY = [
    ("asdf", "<answer>yes</answer>", 0.0, 0.0, "garbage"),
    ("<answer>yes</answer>", "<answer>yes</answer>", 1.0, 1.0, "right"),
    ("<answer>no</answer>", "<answer>yes</answer>", 0.0, 0.0, "wrong"),
    ("<answer>yes, no</answer>", "<answer>yes</answer>", 1.0, 0.0, "gamed: both answers contradict each other"),
    ("<answer>no, yes, no</answer>", "<answer>no</answer>", 1.0, 0.0, "gamed in another order"),
    ("<answer>ap, pa</answer>", "<answer>pa</answer>", 1.0, 0.0, "gamed: both views"),
    ("<answer>m, f</answer>", "<answer>f</answer>", 1.0, 0.0, "gamed: both sexes"),
    (f"<answer>{ANSWERS}</answer>", "<answer>edema</answer>", 1.0, 0.0, "gamed: the whole vocabulary"),
    ("<answer>effusion, edema, nodule</answer>", "<answer>edema</answer>", 1.0, 0.5, "gamed by listing: 2 / (3 + 1)"),
    ("<answer>edema</answer>", "<answer>effusion, edema, nodule</answer>", 1.0, 0.5, "gamed: the surest of three"),
    ("<answer>left lung, right lung</answer>", "<answer>right lung, left lung</answer>", 1.0, 1.0, "both may be true"),
    ("<answer>ap, pa</answer>", "<answer>ap, pa</answer>", 1.0, 1.0, "the reference names both views"),
    ("<answer>ap, pa, yes, no</answer>", "<answer>ap, pa</answer>", 1.0, 0.0, "gamed: another pair besides"),
    ("<answer></answer>", "<answer></answer>", 1.0, 1.0, "nothing to list and nothing listed"),
    ("<answer></answer>", "<answer>edema</answer>", 0.0, 0.0, "nothing listed"),
    ("<answer>edema</answer>", "<answer></answer>", 0.0, 0.0, "nothing to list"),
    ("Yes. The heart is large.", "yes! It is.", 1.0, 1.0, "prose: the first sentences"),
]  # fmt: skip


@pytest.mark.parametrize(("completion", "solution", "faithful", "strict", "reason"), STRICT_ACCURACY)
def test_strict_accuracy_is_not_gamed_where_the_faithful_one_is(completion, solution, faithful, strict, reason):
    assert plugin.MultiModalAccuracyORM()([completion], solution=[solution]) == [faithful], reason
    assert plugin.StrictAccuracyORM()([completion], solution=[solution]) == pytest.approx([strict]), reason


# Words are entities and a:b are relations (WordGraphs). F1 = 2 * shared / (predicted + expected), for either kind.
STRICT_GRAPHS = [
    ("<think>x</think>", "<think>a:b</think>", 0.0, 0.0, "garbage"),
    ("<think>a:b</think>", "<think>a:b</think>", 1.0, 1.0, "the same graph"),
    ("<think>a:b c</think>", "<think>a:b</think>", 5 / 6, (4 / 5 + 1) / 2, "one entity too many"),
    ("<think></think>", "<think>a b</think>", 0.5, 0.0, "gamed: says nothing, so relates nothing"),
    ("<think>x</think>", "<think>a</think>", 0.5, 0.0, "gamed: no relation on either side"),
    ("<think>a</think>", "<think>a b</think>", (1 / 2 + 1) / 2, 2 / 3, "relations neither has are left out"),
    ("", "<think>a b</think>", 0.5, 0.0, "gamed: an empty completion"),
    ("a b", "<think>a b</think>", 1.0, 0.0, "reasoning has to be marked as such"),
    ("<think>a b c d e f g h</think>", "<think>a</think>", (1 / 8 + 1) / 2, 2 / 9, "gamed: the whole vocabulary"),
    ("<think></think>", "<think></think>", 1.0, 0.0, "gamed: nothing to check, nothing to earn"),
    ("<think>a</think>", "<think></think>", 0.5, 0.0, "a reference that says nothing"),
]  # fmt: skip


@pytest.mark.parametrize(("completion", "solution", "faithful", "strict", "reason"), STRICT_GRAPHS)
def test_graph_f1_is_not_gamed_where_the_faithful_jaccard_is(completion, solution, faithful, strict, reason):
    assert plugin.KnowledgeGraphORM(WordGraphs())([completion], solution=[solution]) == pytest.approx([faithful]), (
        reason
    )
    assert plugin.KnowledgeGraphF1ORM(WordGraphs())([completion], solution=[solution]) == pytest.approx([strict]), (
        reason
    )


def test_graph_f1_takes_each_rows_own_reference_and_keeps_it():
    extract = WordGraphs()
    reward = plugin.KnowledgeGraphF1ORM(extract)
    thoughts = [f"<think>{text}</think>" for text in ("a", "b", "a")]
    assert reward(thoughts, solution=["a", "b", "b"]) == [1.0, 1.0, 0.0]
    reward(thoughts[:1], solution=["b"])
    assert extract.calls == [["a", "b"], []]


def test_graph_f1_ignores_the_switch_of_the_faithful_reward(monkeypatch):
    monkeypatch.setenv("KG_TEXT", "whole")
    assert plugin.KnowledgeGraphF1ORM(WordGraphs())(["<think>a</think> b"], solution=["<think>a</think>"]) == [1.0]


STRICT_FORMAT = [
    ("asdf", 0.0, 0.0, "garbage"),
    ("<think>a</think><answer>b</answer>", 1.0, 1.0, "the shape"),
    ("<think></think><answer>yes</answer>", 1.0, 0.0, "gamed: empty reasoning"),
    ("<think> \n </think><answer>yes</answer>", 1.0, 0.0, "gamed: blank reasoning"),
    ("<think>a</think><answer></answer>", 1.0, 1.0, "an empty answer is the right one to some questions"),
    ("<think>a</think><answer>b</answer>!", 0.0, 0.0, "words after"),
]


@pytest.mark.parametrize(("completion", "faithful", "strict", "reason"), STRICT_FORMAT)
def test_the_stricter_format_wants_reasoning(completion, faithful, strict, reason):
    assert plugin.MathFormatORM()([completion]) == [faithful], reason
    assert plugin.FormatORM()([completion]) == [strict], reason


@pytest.mark.parametrize(
    ("tokens", "expected"), [(0, 0.0), (80, 0.0), (81, -0.05), (90, -0.5), (99, -0.95), (100, -1.0), (130, -1.0)]
)
def test_length_falls_in_a_straight_line_over_the_last_fifth(tokens, expected):
    # 100 tokens at most, of which the last 20 are the cache.
    reward = plugin.SoftLengthORM(max_completion_length=100)
    assert reward(["x"], completion_tokens=[tokens]) == pytest.approx([expected])


def columns_of_two_questions(state=None):
    """Columns of three completions for each of two questions, and the completions."""
    images = [(ImageSource.from_path(f"/images/{number}.png"),) for number in range(2)]
    asked = ({"role": "user", "content": "Effusion?"},)
    records = [Record(images[number], asked, "a", {"idx": number}, "s") for number in range(2)]
    prompts = [EncodedPrompt(torch.tensor([1]), (), f"prompt {number}") for number in range(2)]
    items = [PromptItem(number, records[number], prompts[number]) for number in range(2)]
    completions = random_completions(6, longest=5)
    return reward_columns(items, 3, completions, list("uvwxyz"), state), completions


def test_the_trainer_counts_tokens_for_its_rewards():
    columns, completions = columns_of_two_questions()
    assert columns["completion_tokens"] == [len(ids) for ids in completions.token_lists()]
    assert columns["idx"] == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize(
    ("columns", "turns", "expected"),
    [
        ({"question": "Why?"}, ("<image>Where?",), "Why?"),
        ({}, ("Hello.", "<image>\nWhere?"), "Where?"),
        ({"question": None}, (), ""),
    ],
)
def test_the_trainer_gives_the_question_to_its_rewards(columns, turns, expected):
    messages = tuple({"role": "user", "content": turn} for turn in turns)
    items = [PromptItem(0, Record((), messages, "a", columns, "s"), EncodedPrompt(torch.tensor([1]), (), ""))]
    assert reward_columns(items, 2, random_completions(2, longest=5), ["a", "b"])["question"] == [expected] * 2


def test_rewards_may_ask_for_images_messages_prompts_and_the_state_of_the_trainer():
    state = SimpleNamespace(global_step=3)
    seen = {}

    def looks(completions, images, messages, prompts, trainer_state, **columns):
        seen.update(images=images, messages=messages, prompts=prompts, state=trainer_state)
        return [0.0] * len(completions)

    columns, _ = columns_of_two_questions(state)
    reward_matrix([("looks", looks)], list("uvwxyz"), columns)
    assert seen["images"] == [["/images/0.png"]] * 3 + [["/images/1.png"]] * 3
    assert seen["prompts"] == ["prompt 0"] * 3 + ["prompt 1"] * 3
    asked = {"role": "user", "content": "Effusion?"}
    assert seen["messages"] == [[asked, {"role": "assistant", "content": letter}] for letter in "uvwxyz"]
    assert seen["state"] == state


def test_length_counts_with_a_tokenizer_where_nobody_has_counted():
    class Words:
        def encode(self, text, add_special_tokens):
            return text.split()

    reward = plugin.SoftLengthORM(max_completion_length=4, soft_cache_length=2, tokenizer=Words())
    assert reward(["a b", "a b c", "a b c d"]) == [0.0, -0.5, -1.0]


def test_length_takes_its_constants_from_the_arguments_and_refuses_impossible_ones():
    settings = type("Settings", (), {"max_completion_length": 10, "soft_cache_length": 5})()
    [(_, reward)] = build_rewards(["external_length"], settings)
    assert reward(["x"], completion_tokens=[6]) == pytest.approx([-0.2])
    settings.soft_cache_length = 11
    with pytest.raises(UserError, match=r"external_length.*soft_cache_length 11 must be in 1..max_completion_length"):
        build_rewards(["external_length"], settings)
    with pytest.raises(ValueError, match="needs the column completion_tokens, or a tokenizer"):
        plugin.SoftLengthORM()(["x"])


def test_every_name_is_registered():
    names = "r1v_acc kg_jac math_acc math_format countdown code_reward code_format acc_strict kg_f1 format length"
    assert {f"external_{name}" for name in names.split()} <= set(orms)

"""Answers without explanations: no figure of the reasoning pretends to apply to them."""

from __future__ import annotations

import numpy as np
import pytest

import plugin
from swift.plugin import ORM
from swift.plugin.built_in import AccuracyORM
from swift.plugin.rewards import reward_notes
from utils.answers import reasoning_of
from utils.metrics import notes_of, question_metrics
from utils.summaries import summarize_results

TRUTH = "<think>There is a small left pleural effusion.</think><answer>yes</answer>"
BARE = "<answer>No</answer>"


def result(explanation: str | None, text: str = TRUTH, answer: object = "yes") -> dict:
    return {"answer": answer, "explanation": explanation, "generated_text": text, "num_tokens": 9}


@pytest.mark.parametrize(
    ("text", "expected", "reason"),
    [
        (None, None, "no text"),
        (BARE, None, "an answer alone"),
        (f" {BARE}\n", None, "an answer alone between blanks"),
        ("<answer></answer>", None, "an empty answer alone"),
        (TRUTH, "There is a small left pleural effusion.", "a think span"),
        ("<think></think><answer>no</answer>", "", "a think span that says nothing"),
        ("The heart is large.", "The heart is large.", "prose"),
        (f"The heart is large. {BARE}", f"The heart is large. {BARE}", "prose before an answer is read whole"),
        ("", "", "an empty text"),
    ],
)
def test_reasoning_of_a_reference(text, expected, reason):
    assert reasoning_of(text) == expected, reason


@pytest.mark.parametrize("bare", [BARE, "", None])
def test_only_questions_with_reasoning_count_in_its_figures(bare):
    metrics = question_metrics([result(TRUTH), result(bare), result(TRUTH, "<think>No effusion.</think>")])
    alone = question_metrics([result(TRUTH), result(TRUTH, "<think>No effusion.</think>")])
    for name in ("kg_jaccard", "entity_f1", "hallucination", "omission"):
        assert np.isnan(metrics[name][1])
        assert metrics[name][[0, 2]].tolist() == alone[name].tolist()
    assert metrics["accuracy"].tolist() == [1, 1, 0]


def test_a_file_keeps_its_figures_beside_one_without_explanations():
    results = [result(TRUTH), result(BARE), result(BARE)]
    summary = summarize_results(results)["metrics"]
    assert summary["kg_jaccard"]["mean"] == 1.0
    assert summary["hallucination"]["mean"] == 0.0


def test_without_any_explanation_there_are_no_figures_of_reasoning():
    summary = summarize_results([result(BARE), result(None)])["metrics"]
    assert not {"kg_jaccard", "hallucination", "omission", "entity_f1"} & summary.keys()


@pytest.mark.parametrize(
    ("results", "words"),
    [
        ([result(TRUTH)], []),
        ([result(BARE)], ["no question has an explanation"]),
        ([result(BARE), result(TRUTH)], ["count the 1 of 2 questions"]),
        ([result(TRUTH, answer=["m"]), result(TRUTH)], ["1 of 2 questions have a reference answer of one letter"]),
        ([result(None, answer="a")], ["1 of 1 questions", "no question has an explanation"]),
        ([result(TRUTH, answer=3)], []),
    ],
)
def test_notes_name_figures_that_do_not_say_what_they_seem_to(results, words):
    notes = notes_of(results)
    assert len(notes) == len(words)
    assert all(word in note for word, note in zip(words, notes, strict=True))


@pytest.mark.parametrize("reward", [plugin.KnowledgeGraphORM, plugin.KnowledgeGraphF1ORM])
def test_a_graph_reward_does_not_apply_without_reasoning(reward, lexicon):
    assert reward()([TRUTH, TRUTH], solution=[BARE, TRUTH]) == [None, 1.0]


def columns(*solutions: str) -> list[dict]:
    return [{"solution": solution} for solution in solutions]


def test_the_start_of_a_run_says_which_solutions_have_no_reasoning(lexicon):
    rewards = [("kg", plugin.KnowledgeGraphORM()), ("acc", plugin.MultiModalAccuracyORM())]
    assert reward_notes(rewards, columns(TRUTH, TRUTH)) == []
    (some,) = reward_notes(rewards, columns(TRUTH, BARE))
    assert "reward kg compares reasoning, and 1 of 2 solutions have none" in some
    (every,) = reward_notes(rewards, columns(BARE, BARE))
    assert "it is never given" in every


class Constant(ORM):
    is_quick = True

    def __call__(self, completions, **columns):
        return [0.5] * len(completions)


class Broken(Constant):
    def __call__(self, completions, **columns):
        raise ValueError("no")


def test_a_reward_that_is_the_same_for_everything_tried_is_named():
    records = columns(TRUTH, BARE, "<answer>maybe</answer>")
    (note,) = reward_notes([("same", Constant()), ("accuracy", AccuracyORM()), ("broken", Broken())], records)
    assert "reward same is 0.5 for right, wrong and empty answers alike" in note


def test_code_rewards_without_test_cases_are_named():
    (note,) = reward_notes([("external_code_reward", plugin.CodeRewardORM())], columns(TRUTH, BARE))
    assert "reward external_code_reward is 0 for right, wrong and empty answers" in note

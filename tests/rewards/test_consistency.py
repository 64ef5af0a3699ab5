"""Agreement of answers with their own reasoning, and the signs of gaming that training logs."""

from __future__ import annotations

import pytest

from ReXKG.claims import read_claims, truth_of
from utils.consistency import asked_questions, consistency, reasoning_signs, restates
from utils.get_knowledge_graph import finding_reader

READER = finding_reader()

# question, reasoning, answer, support
SUPPORT = [
    ("Is there an effusion?", "", "yes", 0, "an empty reasoning supports nothing"),
    ("Is there an effusion?", "xqz fjw brt.", "yes", 0, "nor does gibberish"),
    ("Is there an effusion?", "Is there an effusion?", "yes", 0, "nor the question itself"),
    ("Is there an effusion?", "There is cardiomegaly.", "yes", 0, "nor another finding"),
    ("Is there an effusion?", "There is a small left effusion.", "yes", 1, ""),
    ("Is there an effusion?", "There is a small left effusion.", "no", -1, ""),
    ("Is there an effusion?", "There is no effusion.", "no", 1, ""),
    ("Is there an effusion?", "There is an effusion.", "yes, no", -1, "a hedge is not supported"),
    ("Is there an effusion?", "There is an effusion. There is no effusion.", "yes", -1, "a contradiction"),
    ("Is there an effusion on the right?", "There is a left effusion.", "no", 1, "the other side"),
    ("Is there an effusion on the right?", "There is an effusion. No effusion on the right.", "no", 1, "of it"),
    ("Is there a nodule in the left lung?", "There is a nodule in the left upper lung zone.", "yes", 1, "a part of it"),
    ("Is the effusion large?", "There is a small effusion.", "no", 1, "another severity"),
    ("Is the heart too large?", "The heart size is normal.", "no", 1, "a synonym of cardiomegaly"),
    ("Is the heart size normal?", "There is cardiomegaly.", "no", 1, "a question for normality"),
    ("Are the lungs clear?", "The lungs are clear.", "yes", 1, ""),
    ("Is the effusion bilateral?", "There is a left effusion.", "no", 1, "one side of two"),
    ("Is the effusion bilateral?", "There are bilateral effusions.", "yes", 1, ""),
    ("Is there any abnormality in the left lung?", "There is a left nodule.", "yes", 1, "a generic name"),
    ("Is there any abnormality in the left upper lung zone?",
     "The left upper lung zone is clear. There is a left effusion.", "no", 1, "an effusion elsewhere"),
    ("Is there any abnormality in the left lung?", "There is edema. No nodule.", "yes", 1, "one of several"),
    ("Has the effusion resolved?", "The effusion has resolved.", "yes", 1, ""),
    ("Has the effusion resolved?", "The effusion is stable.", "no", 1, ""),
    ("Has the effusion increased?", "The effusion has decreased.", "no", 1, ""),
    ("Is the nodule new?", "The nodule is new.", "yes", 1, ""),
    ("Has a pacemaker been placed?", "The pacemaker is seen on both images.", "no", 1, "it was there"),
    ("Is this a pa view?", "This is an ap view of the chest.", "no", 1, "a word that excludes another"),
    ("Is this a pa view?", "This is an ap view of the chest.", "yes", -1, ""),
    ("Is the patient male?", "Breast shadows are seen in this female patient.", "no", 1, ""),
    ("Which view is this, ap or pa?", "This is an ap view.", "ap", 1, ""),
    ("Which view is this, ap or pa?", "This is an ap view.", "pa", -1, ""),
    ("Which is present, effusion or edema?", "There is edema.", "pulmonary edema", 1, "a named finding"),
    ("Which is present, effusion or edema?", "There is edema, no effusion.", "effusion", -1, ""),
    ("Which is present, effusion or edema?", "There is no effusion or edema.", "", 1, "none of the options"),
    ("Which is present, effusion or edema?", "There is edema.", "", -1, "one of the options"),
    ("List all findings.", "There is edema and a nodule.", "pulmonary edema, nodule", 1, ""),
    ("List all findings.", "There is edema.", "pulmonary edema, nodule", 0.5, "half of the list"),
    ("List all findings in the left lung.", "There is a right nodule.", "", 1, "nothing on this side"),
    ("Which findings have resolved?", "The edema has resolved.", "pulmonary edema", 1, ""),
    ("Which findings are new?", "The edema is stable.", "pulmonary edema", -1, "it is not new"),
    ("Which side is the effusion on?", "There is a left effusion.", "left", 1, "a side"),
    ("Which side is the effusion on?", "There is a left effusion.", "right", -1, ""),
    ("Where is the nodule?", "A nodule in the right upper lung zone.", "right upper lung zone", 1, "a region"),
    ("Where is the nodule?", "A nodule in the right upper lung zone.", "right lower lung zone", -1, ""),
    ("How severe is the edema?", "There is mild edema.", "mild", 1, "a severity"),
    ("How severe is the edema?", "There is mild edema.", "severe", -1, ""),
    ("How large is the heart?", "The heart size is normal.", "normal", 1, ""),
    ("How has the edema changed?", "The edema has decreased.", "decreased", 1, "a course"),
    ("Which image shows edema, the first, the second or both?", "The edema is new.", "second", 1, "an image"),
    ("Which image shows edema, the first, the second or both?", "The edema has resolved.", "both", -1, ""),
    ("Which color is it?", "The image is gray.", "gray", 1, "words that are no finding"),
    ("Which color is it?", "The image is not gray.", "gray", 0, "and are not denied"),
    ("", "There is edema.", "yes", 1, "without a question, yes means that something is there"),
]  # fmt: skip


@pytest.mark.parametrize(("question", "reasoning", "answer", "expected", "reason"), SUPPORT)
def test_an_answer_is_compared_with_its_reasoning(question, reasoning, answer, expected, reason):
    completion = f"<think>{reasoning}</think><answer>{answer}</answer>"
    assert consistency([completion], [question], READER) == [expected], reason


def test_an_answer_without_reasoning_is_not_supported():
    assert consistency(["<answer>yes</answer>", "yes"], ["Is there an effusion?"] * 2, READER) == [0, 0]


def test_repeated_statements_lower_the_support():
    completion = f"<think>{'There is edema. ' * 4}</think><answer>yes</answer>"
    assert consistency([completion], ["Is there edema?"], READER) == [0.25]  # one of four


def test_completions_are_scored_one_by_one():
    rows = [
        (question, f"<think>{reasoning}</think><answer>{answer}</answer>")
        for question, reasoning, answer, *_ in SUPPORT
    ]
    questions, completions = zip(*rows, strict=True)
    alone = [consistency([completion], [question], READER)[0] for question, completion in rows]
    assert consistency(completions, questions, READER) == alone


def test_a_claim_with_several_values_of_an_attribute_asks_for_none():
    (claim,) = read_claims(["Is the effusion small, moderate or large?"], READER)
    assert claim.severities == {1, 2, 3}
    assert truth_of(claim, READER(["There is a large effusion."])[0].findings) is True


def test_the_question_is_a_column_or_the_last_user_turn():
    turns = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
    columns = {"question": ["What?", None, None], "messages": [turns, turns, None]}
    assert asked_questions(3, columns) == ["What?", "Why?", ""]
    assert asked_questions(1, {}) == [""]


@pytest.mark.parametrize(
    ("reasoning", "expected"),
    [
        ("", False),
        ("There is a nodule in the left lung.", False),
        ("Is there a nodule in the left lung?", True),
        ("The question is: is there a nodule in the left lung. Yes.", True),
        ("is there a nodule in the right lung", False),  # a run of six words, seven are needed
    ],
)
def test_a_restated_question_is_seen(reasoning, expected):
    assert restates("Is there a nodule in the left lung?", reasoning) is expected


def test_a_short_question_is_not_restated_by_chance():
    assert not restates("Any edema?", "Is there any edema?")


def test_signs_are_counted():
    completions = [
        "<think>There is edema. No edema.</think><answer>yes</answer>",
        "<think>There is no edema.</think><answer>yes</answer>",
        "<think>Is there any evidence of edema?</think><answer>yes</answer>",
        "<think>There is edema.</think><answer>yes</answer>",
    ]
    assert reasoning_signs(completions, ["Is there any evidence of edema?"] * 4, READER) == {
        "signs/contradictory": (1, 4),
        "signs/against_answer": (1, 4),
        "signs/restates": (1, 4),
    }

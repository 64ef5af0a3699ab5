import numpy as np
import pytest

from utils.metrics import judge, question_metrics, reference_answers


def completion(answer, think="There is a small left pleural effusion."):
    return f"<think>{think}</think><answer>{answer}</answer>"


@pytest.mark.parametrize(
    ("text", "reference", "substring", "overlap", "exact", "reason"),
    [
        ("", {"yes"}, False, False, False, "garbage scores nothing"),
        ("<answer>yes</answer>", {"yes"}, True, True, True, "right"),
        ("<answer> YES </answer>", {"yes"}, True, True, True, "case and blanks do not matter"),
        ("The heart is abnormal. <answer>yes</answer>", {"no"}, True, False, False, "substring finds no in abnormal"),
        ("<answer>no pneumothorax</answer>", {"pneumothorax"}, True, False, False, "substring ignores the negation"),
        ("<answer>nodule, effusion</answer>", {"nodule"}, True, True, False, "one too many is not exact"),
        ("<answer>nodule</answer>", {"nodule", "effusion"}, True, True, False, "one too few is not exact"),
        ("<answer>yes, no</answer>", {"no"}, True, True, False, "hedging beats overlap only"),
        ("<answer></answer>", set(), False, True, True, "nothing to list, nothing listed: never right by substring"),
        ("<answer>nodule</answer>", set(), False, False, False, "nothing to list, something listed"),
        ("No. The lungs are clear.", {"no"}, True, True, True, "without a span the first sentence is the answer"),
    ],
)
def test_rules_judge_as_published_as_in_training_and_strictly(text, reference, substring, overlap, exact, reason):
    expected = {"substring": substring, "answer_overlap": overlap, "exact_set": exact}
    assert judge(text, frozenset(reference)) == expected, reason


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ({"answer": ["Yes "], "explanation": "<answer>no</answer>"}, {"yes"}),
        ({"answer": []}, set()),
        ({"answer": "nodule, Effusion"}, {"nodule", "effusion"}),
        ({"explanation": "<think>x</think><answer>no</answer>"}, {"no"}),
    ],
)
def test_reference_is_the_answer_field_or_else_the_explanation(result, expected):
    assert reference_answers(result) == expected


@pytest.mark.parametrize("result", [{}, {"answer": 3}, {"answer": [1]}, {"answer": None, "explanation": None}])
def test_a_question_without_a_usable_answer_is_an_error(result):
    with pytest.raises(ValueError, match="answer"):
        reference_answers(result)


def test_metrics_are_per_question_and_derived_by_hand():
    truth = completion("yes")
    results = [
        {"answer": ["yes"], "explanation": truth, "generated_text": truth, "num_tokens": 21},
        # {right, pleural, effusion} against {small, left, pleural, effusion}: 2 shared, F1 = 2 * 2 / (3 + 4)
        {
            "answer": ["yes"],
            "explanation": truth,
            "generated_text": completion("no", "There is a right pleural effusion."),
            "num_tokens": 22,
        },
        {"answer": ["yes"], "explanation": truth, "generated_text": "yes", "num_tokens": 1},
    ]
    metrics = question_metrics(results)
    assert metrics["accuracy"].tolist() == [1, 0, 1]
    assert metrics["length"].tolist() == [21, 22, 1]
    assert metrics["format"].tolist() == [1, 1, 0]
    np.testing.assert_allclose(metrics["entity_f1"], [1, 4 / 7, 0])
    # entities: 2 shared of 5; relations {right-pleural, effusion-pleural} against {small-effusion, left-pleural,
    # effusion-pleural}: 1 shared of 4
    np.testing.assert_allclose(metrics["kg_jaccard"], [1, (2 / 5 + 1 / 4) / 2, 0])


def test_answers_do_not_count_as_reasoning():
    truth = completion("nodule", "The heart size is normal.")
    wrong = completion("pneumothorax", "The heart size is normal.")
    metrics = question_metrics([{"answer": ["nodule"], "explanation": truth, "generated_text": wrong, "num_tokens": 9}])
    assert metrics["kg_jaccard"].tolist() == [1]


def test_graph_metrics_are_left_out_where_a_reference_reasoning_is_missing():
    results = [{"answer": ["yes"], "generated_text": "yes", "num_tokens": 2}]
    assert set(question_metrics(results)) == {"accuracy", "length", "format"}

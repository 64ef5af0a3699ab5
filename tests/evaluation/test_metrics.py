import itertools

import numpy as np
import pytest
from sklearn.metrics import f1_score, precision_recall_fscore_support
from sklearn.preprocessing import MultiLabelBinarizer

from utils.answers import parse_answers
from utils.metrics import RULES, answer_scores, judge, question_metrics, reference_answers
from utils.self_consistency import majority_answers, pass_at_k, pass_sizes
from utils.summaries import summarize_results


def completion(answer, think="There is a small left pleural effusion."):
    return f"<think>{think}</think><answer>{answer}</answer>"


@pytest.mark.parametrize(
    ("text", "reference", "substring", "overlap", "span", "exact", "reason"),
    [
        ("", {"yes"}, False, False, False, False, "garbage scores nothing"),
        ("<answer>yes</answer>", {"yes"}, True, True, True, True, "right"),
        ("<answer> YES </answer>", {"yes"}, True, True, True, True, "case and blanks do not matter"),
        (
            "The heart is abnormal. <answer>yes</answer>",
            {"no"},
            True,
            False,
            False,
            False,
            "substring finds no in abnormal",
        ),
        (
            "<answer>no pneumothorax</answer>",
            {"pneumothorax"},
            True,
            False,
            False,
            False,
            "substring ignores the negation",
        ),
        ("<answer>nodule, effusion</answer>", {"nodule"}, True, True, True, False, "one too many is not exact"),
        ("<answer>nodule</answer>", {"nodule", "effusion"}, True, True, True, False, "one too few is not exact"),
        ("<answer>yes, no</answer>", {"no"}, True, True, True, False, "hedging beats overlap only"),
        (
            "<answer></answer>",
            set(),
            False,
            True,
            True,
            True,
            "nothing to list, nothing listed: never right by substring",
        ),
        ("<answer>nodule</answer>", set(), False, False, False, False, "nothing to list, something listed"),
        (
            "No. The lungs are clear.",
            {"no"},
            True,
            True,
            False,
            True,
            "without a span the first sentence is the answer",
        ),
    ],
)
def test_rules_judge_as_published_as_in_training_and_strictly(text, reference, substring, overlap, span, exact, reason):
    expected = {"substring": substring, "answer_overlap": overlap, "answer_span": span, "exact_set": exact}
    assert judge(text, frozenset(reference)) == expected, reason


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ({"answer": ["Yes "], "explanation": "<answer>no</answer>"}, {"yes"}),
        ({"answer": []}, set()),
        ({"answer": "nodule, Effusion"}, {"nodule", "effusion"}),
        ({"answer": 3}, {"3"}),
        ({"answer": 3.0}, {"3"}),
        ({"answer": 2.5}, {"2.5"}),
        ({"answer": True}, {"yes"}),
        ({"answer": [False, 4]}, {"no", "4"}),
        ({"answer": ["heart; spine"]}, {"heart", "spine"}),
        ({"explanation": "<think>x</think><answer>no</answer>"}, {"no"}),
    ],
)
def test_reference_is_the_answer_field_or_else_the_explanation(result, expected):
    assert reference_answers(result) == expected


@pytest.mark.parametrize(
    "result", [{}, {"answer": {"a": 1}}, {"answer": [["a"]]}, {"answer": [None]}, {"answer": None, "explanation": None}]
)
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
    assert set(question_metrics(results)) == {*RULES, "accuracy", "length", "format"}


ANSWERS = ["yes", "no", "nodule", "effusion", "left lung"]


def random_results(count, seed):
    rng = np.random.default_rng(seed)

    def some():
        return [answer for answer in ANSWERS if rng.random() < 0.35]

    return [
        {
            "answer": some(),
            "explanation": completion("no"),
            "generated_text": completion(", ".join(some())),
            "num_tokens": 3,
            "subject_id": int(rng.integers(count // 3)),
            "semantic_type": ["verify", "choose", "query"][int(rng.integers(3))],
        }
        for _ in range(count)
    ]


@pytest.mark.parametrize("seed", range(3))
def test_f1_and_exact_match_agree_with_scikit_learn(seed):
    results = random_results(200, seed)
    encoder = MultiLabelBinarizer(classes=ANSWERS)
    truth = encoder.fit_transform([row["answer"] for row in results])
    mine = encoder.transform([sorted(parse_answers(row["generated_text"])) for row in results])
    metrics = question_metrics(results)
    expected = f1_score(truth, mine, average="samples", zero_division=1.0)
    assert metrics["answer_f1"].mean() == pytest.approx(expected)
    assert metrics["exact_set"].mean() == pytest.approx((truth == mine).all(axis=1).mean())
    precision, recall, f1, support = precision_recall_fscore_support(truth, mine, zero_division=0.0)
    scores = answer_scores(results)
    assert list(scores) == sorted(ANSWERS, key=lambda answer: (-support[ANSWERS.index(answer)], answer))
    for place, answer in enumerate(ANSWERS):
        found = scores[answer]
        expected = (precision[place], recall[place], f1[place], support[place])
        assert (found["precision"], found["recall"], found["f1"], found["support"]) == pytest.approx(expected)


@pytest.mark.parametrize(("samples", "right"), [(5, 0), (5, 1), (5, 3), (6, 6), (7, 2)])
def test_pass_at_k_is_the_share_of_choices_of_k_with_a_right_one(samples, right):
    outcomes = [True] * right + [False] * (samples - right)
    for k in range(1, samples + 1):
        choices = [any(choice) for choice in itertools.combinations(outcomes, k)]
        assert pass_at_k(samples, right, k) == pytest.approx(sum(choices) / len(choices))


@pytest.mark.parametrize(("samples", "right", "k"), [(3, 1, 0), (3, 1, 4), (3, 4, 1), (3, -1, 1)])
def test_pass_at_k_of_what_cannot_be_is_an_error(samples, right, k):
    with pytest.raises(ValueError, match=f"pass@{k}"):
        pass_at_k(samples, right, k)


def test_sizes_of_pass_at_k_are_powers_of_two_and_all():
    assert [pass_sizes(count) for count in (1, 2, 5, 8)] == [[1], [1, 2], [1, 2, 4, 5], [1, 2, 4, 8]]


@pytest.mark.parametrize(
    ("answers", "expected", "reason"),
    [
        (["yes", "no", "no"], {"no"}, "two of three"),
        (["nodule, effusion", "effusion, nodule", "nodule"], {"nodule", "effusion"}, "the order within does not count"),
        (["yes", "no"], {"yes"}, "a tie goes to what was said first"),
        (["", "", "yes"], set(), "nothing is an answer too"),
    ],
)
def test_the_majority_is_of_whole_sets_of_answers(answers, expected, reason):
    assert majority_answers([completion(answer) for answer in answers]) == expected, reason


def test_several_samples_are_scored_together():
    texts = [completion(answer) for answer in ("yes", "no", "no", "no, yes")]
    result = {
        "answer": ["no"],
        "generated_text": texts[0],
        "num_tokens": 3,
        "samples": [{"generated_text": text} for text in texts],
    }
    metrics = {name: float(values[0]) for name, values in question_metrics([result]).items()}
    assert metrics["majority_vote"] == metrics["majority_vote_exact_set"] == 1
    assert metrics["pass@1"] == pytest.approx(3 / 4)
    assert metrics["pass@2"] == 1  # only one of four is wrong
    assert metrics["pass@1_exact_set"] == pytest.approx(2 / 4)
    assert metrics["pass@2_exact_set"] == pytest.approx(1 - 1 / 6)
    assert metrics["accuracy"] == 0  # of the first sample


def test_a_summary_tells_kinds_of_questions_apart():
    results = random_results(60, 7)
    summary = summarize_results(results)
    metrics = question_metrics(results)
    kinds = summary["by_type"]["semantic_type"]
    assert list(summary["by_type"]) == ["semantic_type"]
    assert sum(kind["questions"] for kind in kinds.values()) == 60
    for name, kind in kinds.items():
        rows = [place for place, result in enumerate(results) if result["semantic_type"] == name]
        assert kind["metrics"]["exact_set"]["mean"] == pytest.approx(metrics["exact_set"][rows].mean())
    assert summary["metrics"]["hallucination"]["mean"] == pytest.approx(metrics["hallucination"].mean())
    assert "calibration" not in summary

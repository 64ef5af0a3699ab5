"""The audit's scores by hand, and its table."""

import random

import pytest

from tests.support.graphs import EFFUSION, EMPTY, NO_EFFUSION, make_graph, random_graph
from tools.kg_audit.scores import Audited, audit, most_frequent, score_question, summarize_audited, worst_examples
from tools.kg_audit.table import VALUES_SHOWN, audit_table
from utils.intervals import mean_interval

MINE = make_graph(
    {"effusion": "disorder_present", "tube": "devices_present", "edema": "disorder_notpresent", "left": "concept"},
    [("left", "effusion", "modify")],
)
TRUTH = make_graph(
    {"effusion": "disorder_present", "nodule": "disorder_present", "tube": "devices_notpresent"},
    [("left", "effusion", "modify"), ("left", "nodule", "modify")],
)
REPORT = make_graph({"tube": "devices_present"})


def test_the_scores_of_one_question_by_hand():
    scores = score_question(MINE, TRUTH)
    assert {name: tuple(score) for name, score in scores.items()} == {
        "entity_precision": (1 / 4, 1, 4),  # effusion of effusion, tube, edema, left
        "entity_recall": (1 / 3, 1, 3),
        "entity_f1": (2 / 7, 2, 7),
        "entity_jaccard": (1 / 6, 1, 6),
        "relation_precision": (1.0, 1, 1),
        "relation_recall": (1 / 2, 1, 2),
        "relation_f1": (2 / 3, 2, 3),
        "relation_jaccard": (1 / 2, 1, 2),
        "kg_jaccard": (pytest.approx((1 / 6 + 1 / 2) / 2), 0, 0),
        "kg_f1": ((2 / 7 + 2 / 3) / 2, 0, 0),
        "hallucination": (1 / 2, 1, 2),  # tube of effusion, tube
        "omission": (1 / 2, 1, 2),  # nodule of effusion, nodule
    }


def test_what_the_report_asserts_is_not_invented():
    assert score_question(MINE, TRUTH, REPORT)["hallucination_with_report"] == (0.0, 0, 2)
    assert score_question(MINE, TRUTH, EMPTY)["hallucination_with_report"] == (0.5, 1, 2)
    assert score_question(EMPTY, TRUTH, REPORT)["hallucination_with_report"] == (0.0, 0, 0)


def test_values_are_the_ratios_of_their_counts_wherever_there_are_any():
    rng = random.Random(1)
    for _ in range(500):
        for score in score_question(random_graph(rng), random_graph(rng), random_graph(rng)).values():
            if score.whole:
                assert score.value == pytest.approx(score.part / score.whole)


def test_per_question_is_the_mean_and_pooled_the_ratio_of_sums():
    # Hallucination: 1 of 2 and 0 of 0, that is (0.5 + 0) / 2 per question and 1 / 2 pooled.
    rows = [score_question(MINE, TRUTH), score_question(EMPTY, EFFUSION)]
    summary = summarize_audited(rows, ["a", "b"])
    assert summary["hallucination"]["per_question"] == mean_interval([0.5, 0.0], ["a", "b"])
    assert summary["hallucination"]["pooled"].mean == 0.5
    # Entity recall: 1 of 3 and 0 of 2.
    assert summary["entity_recall"]["per_question"].mean == pytest.approx((1 / 3 + 0) / 2)
    assert summary["entity_recall"]["pooled"].mean == pytest.approx(1 / 5)
    assert set(summary["kg_jaccard"]) == {"per_question"}


def test_a_score_that_some_questions_lack_is_of_the_others():
    rows = [score_question(MINE, TRUTH, EMPTY), score_question(EFFUSION, EMPTY), score_question(MINE, TRUTH, REPORT)]
    with_report = summarize_audited(rows, ["a", "b", "c"])["hallucination_with_report"]
    assert with_report["per_question"].mean == 0.25
    assert with_report["pooled"].mean == 0.25


def test_shares_of_nothing_are_left_out():
    summary = summarize_audited([score_question(EMPTY, EMPTY)], ["a"])
    assert summary["entity_f1"]["per_question"].mean == 1.0
    assert all("pooled" not in score for score in summary.values())


def test_the_most_frequent_inventions_are_counted_with_how_often_they_were_said():
    pairs = [(EFFUSION, EMPTY), (EFFUSION, NO_EFFUSION), (EFFUSION, EFFUSION), (MINE, EMPTY), (NO_EFFUSION, EMPTY)]
    assert most_frequent(pairs) == [
        {"text": "effusion", "type": "disorder_present", "count": 3, "of": 4, "denied": 1},
        {"text": "tube", "type": "devices_present", "count": 1, "of": 1, "denied": 0},
    ]
    assert [row["text"] for row in most_frequent(pairs, 1)] == ["effusion"]


def audited(*pairs, **fields):
    results = [{"dataset": "d", "idx": str(n), "subject_id": f"p{n // 2}"} | fields for n in range(len(pairs))]
    predicted, references = zip(*pairs, strict=True)
    return Audited(results, predicted, references, [None] * len(pairs))


def test_the_worst_examples_come_first_and_good_answers_never():
    rows = worst_examples(audited((EFFUSION, EFFUSION), (EMPTY, TRUTH), (EFFUSION, EMPTY), (MINE, TRUTH)))
    assert rows == [
        {"dataset": "d", "idx": "3", "hallucinated": ["tube"], "omitted": ["nodule"]},
        {"dataset": "d", "idx": "2", "hallucinated": ["effusion"], "omitted": []},
        {"dataset": "d", "idx": "1", "hallucinated": [], "omitted": ["effusion", "nodule"]},
    ]


def test_groups_are_audited_by_themselves():
    pairs = [(MINE, TRUTH), (EFFUSION, EFFUSION), (EMPTY, TRUTH), (EFFUSION, EMPTY)]
    whole = audited(*pairs, content_type="presence")
    for row, kind in zip(whole.results, ("verify", "query", "verify", "query"), strict=True):
        row["semantic_type"] = kind
    groups = audit(whole)["breakdown"]
    assert set(groups) == {"semantic_type"}  # all others have one value or none
    verify = Audited(whole.results[::2], whole.predicted[::2], whole.references[::2], whole.reports[::2])
    assert groups["semantic_type"]["verify"] == {"questions": 2, "scores": audit(verify)["scores"]}


def test_intervals_draw_whole_patients():
    pairs = [(EFFUSION, EFFUSION), (EFFUSION, EFFUSION), (EFFUSION, EMPTY), (EFFUSION, EMPTY)] * 25
    one = audited(*pairs)
    for number, row in enumerate(one.results):
        row["subject_id"] = f"p{number % 4 // 2}"
    many = audited(*pairs)
    for number, row in enumerate(many.results):
        row["subject_id"] = str(number)
    assert audit(one)["scores"]["hallucination"]["per_question"].hi == 1.0  # both draws may take the same patient
    assert audit(many)["scores"]["hallucination"]["per_question"].hi < 0.62


def test_graphs_and_results_must_be_as_many():
    with pytest.raises(ValueError, match="as many"):
        Audited([{}], [EMPTY], [EMPTY, EMPTY], [None])


def test_the_table_has_a_line_a_score_and_groups_cut_short():
    pairs = [(MINE, TRUTH)] * 40
    whole = audited(*pairs)
    for number, row in enumerate(whole.results):
        row["question_type"] = f"kind {number % (VALUES_SHOWN + 3):02d}"
    lines = audit_table(audit(whole)).splitlines()
    assert lines[0] == "40 questions about 20 patients, mean [95% interval]"
    assert lines[4].split("   ")[0] == "entity F1"
    assert lines[4].count("0.286 [0.286, 0.286]") == 2
    assert "  and 3 more" in lines
    assert sum(line.startswith("  kind") for line in lines) == VALUES_SHOWN
    assert "  tube 40/40 (40)" in lines
    assert "  d 0: hallucinated tube; omitted nodule" in lines
    assert max(map(len, lines)) <= 120


def test_a_table_of_nothing_wrong_is_short():
    assert "most" not in audit_table(audit(audited((EFFUSION, EFFUSION))))

"""The rewards on findings, on consistency, on reports and of radeval, as plugin.py registers them."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

import plugin
from swift.plugin.rewards import build_rewards, required_columns, reward_metrics, reward_notes
from swift.utils.errors import UserError

SOLUTION = "<think>There is a small left pleural effusion.</think><answer>yes</answer>"


def completion(reasoning: str, answer: str = "yes") -> str:
    return f"<think>{reasoning}</think><answer>{answer}</answer>"


# completion, score, reason
FINDINGS = [
    ("asdf", 0.0, "garbage"),
    ("There is a small left pleural effusion.", 0.0, "without think tags nothing is read"),
    (completion(""), 0.0, "nothing to say earns nothing"),
    (completion("There is a small left pleural effusion."), 1.0, "the truth"),
    (completion("A tiny effusion is seen on the left."), 1.0, "a paraphrase"),
    (completion("There is a pleural effusion."), 0.4 + 0.6 * 0.25, "side and severity left out"),
    (completion("There is a large left pleural effusion."), 0.4 + 0.6 * (1 + 0) / 2, "the wrong severity"),
    (completion("There is a small right pleural effusion."), -0.5, "the wrong side"),
    (completion("There is no pleural effusion."), -1.0, "the wrong polarity"),
    (completion("There is a small left pleural effusion. " * 2), 2 / 3, "said twice: 2 / (1 + 1 + 1)"),
    (completion("There is a small left pleural effusion. No nodule."), (2 - 0.25) / 3, "beside the point"),
]


@pytest.mark.parametrize(("text", "expected", "reason"), FINDINGS)
def test_findings_truth_table(text, expected, reason):
    assert plugin.FindingsORM()([text], solution=[SOLUTION]) == [pytest.approx(expected)], reason


def test_findings_are_scored_against_their_own_solution():
    solutions = [completion("There is edema."), completion("There is no edema.")]
    assert plugin.FindingsORM()([completion("There is edema.")] * 2, solution=solutions) == [1.0, -1.0]


def test_a_solution_without_reasoning_gets_none():
    solutions = [completion("There is edema."), "<answer>yes</answer>"]
    assert plugin.FindingsORM()([completion("There is edema.")] * 2, solution=solutions) == [1.0, None]


@pytest.mark.parametrize(
    ("name", "reads"),
    [("external_findings", True), ("external_kg_f1", True), ("external_consistency", False),
     ("external_kg_report", False)],
)  # fmt: skip
def test_only_rewards_that_compare_with_the_solution_say_that_reasoning_is_missing(name, reads):
    notes = reward_notes(build_rewards([name]), [{"solution": "<answer>yes</answer>", "question": "Is it?"}])
    assert any("compares reasoning" in note for note in notes) is reads


def test_consistency_takes_the_question_from_its_column_or_from_the_messages():
    texts = [completion("There is edema.")] * 2
    messages = [[{"role": "user", "content": "Is there edema?"}]] * 2
    assert plugin.ConsistencyORM()(texts, question=["Is there edema?"] * 2) == [1.0, 1.0]
    assert plugin.ConsistencyORM()(texts, question=["Is there a nodule?", None], messages=messages) == [0.0, 1.0]


def test_a_report_supports_contradicts_and_leaves_open():
    texts = [completion("There is edema."), completion("No edema."), completion("There is a nodule."), completion("")]
    report = "FINDINGS: There is edema. IMPRESSION: Edema."
    assert plugin.ReportORM()(texts, report=[report] * 4) == [0.5, -0.5, 0.0, 0.0]


def test_a_record_without_a_report_gets_none():
    assert plugin.ReportORM()([completion("Edema.")] * 2, report=["Edema.", None]) == [0.5, None]


def test_the_report_of_a_study_is_found_on_disk(tmp_path, monkeypatch):
    (tmp_path / "p10").mkdir()
    (tmp_path / "p10" / "s50414267.txt").write_text("FINDINGS: There is edema.")
    monkeypatch.setenv("KG_REPORTS", str(tmp_path))
    reward = plugin.ReportORM()
    assert reward([completion("Edema.")] * 2, study_id=["s50414267", 7]) == [0.5, None]


def test_reports_are_read_from_a_table(tmp_path, monkeypatch):
    path = tmp_path / "reports.csv"
    path.write_text("study_id,report\n50414267,There is edema.\n")
    monkeypatch.setenv("KG_REPORTS", str(path))
    assert plugin.ReportORM()([completion("Edema.")], study_id=[50414267.0]) == [0.5]


def test_without_any_report_the_remedy_is_named(monkeypatch):
    monkeypatch.delenv("KG_REPORTS", raising=False)
    with pytest.raises(ValueError, match="needs the column report, or the column study_id and KG_REPORTS=FOLDER"):
        plugin.ReportORM()([completion("Edema.")], solution=[SOLUTION])


def test_what_the_rewards_need_is_checked_before_training():
    rewards = build_rewards(["external_consistency", "external_kg_report", "external_findings"])
    assert required_columns(rewards) == {"solution": "external_findings"}


def test_signs_are_counted_once_and_empty_unions_by_the_published_reward():
    rewards = build_rewards(["external_findings", "external_kg_jac"])
    texts = [completion("There is edema."), completion("There is edema. No edema.")]
    columns = {"solution": [completion("There is edema.")] * 2, "question": ["Is there edema?"] * 2}
    figures = reward_metrics(rewards, texts, columns)
    # edema alone has no relation, so both relation unions are empty: each earns 1/2. The second text's edema is absent
    # in its graph, which keeps the later type: entity Jaccard 0. The reward is 1 + 1/2.
    assert figures["signs/empty_unions"] == (1.0, 1.5)
    assert figures["signs/contradictory"] == (1.0, 2.0)
    assert len(figures) == 4


@pytest.mark.parametrize(
    ("figures", "words"),
    [
        ({"x": 1.0}, "reward 'bad.metrics' failed"),
        ({"x": (float("nan"), 1)}, r"reward 'bad.metrics' gave the figure 'x' as \(nan, 1.0\); give finite numbers"),
        ({"x": (1, 10**400)}, "reward 'bad.metrics' failed: .*OverflowError"),
    ],
)
def test_a_reward_whose_figures_are_wrong_is_named(figures, words):
    class Bad(plugin.FormatORM):
        def metrics(self, completions, **columns):
            return figures

    with pytest.raises(UserError, match=words):
        reward_metrics([("bad", Bad())], ["a"], {})


@pytest.fixture
def radeval(monkeypatch):
    """A stand-in for the package: its metrics are the share of the reference's words that the text has."""

    def make_reward_fn(metric, reference_column, key=None, score_transform=None):
        if metric == "chexbert":
            raise OSError("weights of chexbert\nare not on disk")

        def score(completions, **columns):
            pairs = zip(completions, columns[reference_column], strict=True)
            values = [len({*a.split()} & {*b.split()}) / len(b.split()) for a, b in pairs]
            return [score_transform(value) if score_transform else value for value in values]

        return score

    module = ModuleType("radeval.rewards")
    module.make_reward_fn = make_reward_fn
    monkeypatch.setitem(sys.modules, "radeval", ModuleType("radeval"))
    monkeypatch.setitem(sys.modules, "radeval.rewards", module)


def test_a_metric_of_radeval_is_a_reward(radeval, monkeypatch):
    texts, solution = [completion("a b"), completion("a c"), "a b"], [completion("a b")] * 3
    assert plugin.RadEvalORM()(texts, solution=solution) == [1.0, 0.5, 0.0]
    monkeypatch.setenv("RADEVAL_METRIC", "radcliq")  # a distance
    assert plugin.RadEvalORM()(texts, solution=solution) == [-1.0, -0.5, 0.0]


def test_missing_weights_of_radeval_are_one_line(radeval, monkeypatch):
    monkeypatch.setenv("RADEVAL_METRIC", "chexbert")
    with pytest.raises(
        UserError, match=r"RADEVAL_METRIC=chexbert: radeval cannot load it .*weights of chexbert"
    ) as caught:
        build_rewards(["external_radeval"])
    assert "\n" not in str(caught.value)


def test_a_missing_radeval_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "radeval", None)
    with pytest.raises(UserError, match=r"external_radeval needs radeval .*pip install radeval"):
        build_rewards(["external_radeval"])

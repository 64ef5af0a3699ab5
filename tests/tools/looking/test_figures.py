"""Figures of looking: by hand on four questions, and against plain loops on random answers."""

from __future__ import annotations

import random
import statistics

import numpy as np
import pytest

from tools.looking.compute import compute_looking
from tools.looking.control_runs import ControlRun
from tools.looking.figures import CHANGED, LOOKING_RULES, RULE_FIGURES, looking_columns
from tools.reports.result_files import EvaluatedRun
from utils.answers import in_form_of, normalise_answers, parse_answers
from utils.metrics import ACCURACY_RULES, TRAINING_RULE


def answered(text, answer, **fields):
    return {"question": "?", "answer": answer, "generated_text": text, **fields}


def means(columns):
    return {name: float(np.nanmean(column)) for name, column in columns.items()}


def test_figures_of_four_questions_are_those_on_paper():
    # answer: yes. With the image: yes yes no no; without it: yes no yes no
    with_image = [answered(f"<answer>{text}</answer>", ["yes"]) for text in ("yes", "yes", "no", "no")]
    without = [answered(f"<answer>{text}</answer>", ["yes"]) for text in ("yes", "no", "yes", "no")]
    without[3] = answered("It is normal.", ["yes"])  # another wrong answer: it changes, and no figure of a rule moves
    found = means(looking_columns(with_image, without))
    assert found[CHANGED, None] == 3 / 4
    for rule in LOOKING_RULES:
        values = [found[name, rule] for name in RULE_FIGURES]
        assert values == [2 / 4, 2 / 4, 0.0, 1 / 4, 1 / 4]


def test_the_training_rule_stands_first_and_every_rule_is_there():
    assert LOOKING_RULES[0] == TRAINING_RULE
    assert set(LOOKING_RULES) == set(ACCURACY_RULES)


@pytest.mark.parametrize(
    ("texts", "answer", "changes"),
    [
        (("<answer>yes</answer>", "<think>Other words.</think><answer>Yes.</answer>"), ["yes"], False),
        (("<answer>a, b</answer>", "<answer>b and a</answer>"), ["a", "b"], False),
        (("<answer>(A)</answer>", "<answer>Option A</answer>"), ["a"], False),
        (("<answer>a) edema</answer>", "<answer>edema</answer>"), ["edema"], False),
        (("<answer></answer>", "<answer> </answer>"), [], False),
        (("<answer>no</answer>", "<answer>nothing</answer>"), ["yes"], True),
        (("<answer>a</answer>", "<answer>a, b</answer>"), ["a"], True),
        (("<answer>yes</answer>", "<answer></answer>"), ["yes"], True),
        (("Yes. It is seen.", "Yes! It is not."), ["yes"], False),
    ],
)
def test_an_answer_changes_if_what_it_says_changes(texts, answer, changes):
    columns = looking_columns(*([answered(text, answer)] for text in texts))
    assert columns[CHANGED, None].tolist() == [float(changes)]


def test_a_question_without_an_answer_under_the_control_counts_nowhere():
    with_image = [answered("<answer>yes</answer>", ["yes"]), answered("<answer>yes</answer>", ["yes"])]
    columns = looking_columns(with_image, [None, answered("<answer>no</answer>", ["yes"])])
    for column in columns.values():
        assert np.isnan(column[0])
        assert np.isfinite(column[1])


# A slow and obvious reference on random answers.

TEXTS = ("<answer>yes</answer>", "<answer>no</answer>", "<answer>a, b</answer>", "<answer>b</answer>", "Yes, a. No b.",
         "<answer></answer>", "<answer>(A)</answer>", "abnormal")  # fmt: skip
REFERENCES = (["yes"], ["no"], ["a"], ["a", "b"], [])


def random_run(rng, truths):
    texts = [rng.choice(TEXTS) for _ in truths]
    return [
        answered(text, truth, subject_id=patient, semantic_type=kind)
        for text, (truth, patient, kind) in zip(texts, truths, strict=True)
    ]


def slow_value(name, rule, seen, unseen):
    reference = normalise_answers(seen["answer"])
    if name == CHANGED:
        first, second = (in_form_of(parse_answers(one["generated_text"]), reference) for one in (seen, unseen))
        return 1.0 if first != second else 0.0
    r = ACCURACY_RULES[rule](seen["generated_text"], reference)
    c = ACCURACY_RULES[rule](unseen["generated_text"], reference)
    if name == "right_only_with_image":
        return 1.0 if r and not c else 0.0
    if name == "right_only_without_image":
        return 1.0 if c and not r else 0.0
    return {"accuracy_with_image": float(r), "accuracy_without_image": float(c), "image_reliance": float(r) - float(c)}[
        name
    ]


def slow_interval(values, owners):
    """Mean, and percentiles of the means of 2,000 draws of patients, one question at a time."""
    patients = list(dict.fromkeys(owners))
    rng = np.random.default_rng(0)
    draws = rng.integers(0, len(patients), (2000, len(patients)))
    drawn = []
    for draw in draws:
        taken = [value for number in draw for value, owner in zip(values, owners, strict=True)
                 if owner == patients[number]]  # fmt: skip
        drawn.append(statistics.fmean(taken))
    return [statistics.fmean(values), *np.percentile(drawn, [2.5, 97.5])]


@pytest.mark.parametrize("seed", range(3))
def test_figures_kinds_and_differences_are_those_of_plain_loops(seed):
    rng = random.Random(seed)
    truths = [(rng.choice(REFERENCES), f"p{rng.randrange(4)}", rng.choice("uv")) for _ in range(14)]
    runs = {name: EvaluatedRun(name, [], random_run(rng, truths), {}) for name in ("first", "second")}
    controls = [ControlRun(name, "blank", [], random_run(rng, truths)) for name in runs]
    looks = compute_looking(runs, controls, "first").looks
    assert [(look.run, look.baseline) for look in looks] == [("first", None), ("second", None), ("second", "first")]
    unseen = {control.run: control.results for control in controls}
    rows_of = {kind: [n for n, truth in enumerate(truths) if truth[2] == kind] for kind in "uv"}
    for name, rule in ((CHANGED, None), *((figure, rule) for figure in RULE_FIGURES for rule in LOOKING_RULES)):
        columns = [
            [slow_value(name, rule, *pair) for pair in zip(run.results, unseen[run.name], strict=True)]
            for run in runs.values()
        ]
        columns.append([b - a for a, b in zip(*columns, strict=True)])
        for look, values in zip(looks, columns, strict=True):
            assert look.overall.intervals[name, rule].mean == pytest.approx(statistics.fmean(values))
            for kind, rows in rows_of.items():
                figures = look.by["semantic_type"][kind]
                assert figures.count == len(rows)
                assert figures.intervals[name, rule].mean == pytest.approx(statistics.fmean(values[n] for n in rows))
            if (name, rule) == ("image_reliance", LOOKING_RULES[seed]):
                interval = look.overall.intervals[name, rule]
                expected = slow_interval(values, [patient for _, patient, _ in truths])
                assert [interval.mean, interval.lo, interval.hi] == pytest.approx(expected, abs=1e-9)


def test_under_each_control_differences_are_from_the_baseline_or_else_from_the_first_run_that_has_it():
    run = [answered("<answer>yes</answer>", ["yes"])]
    runs = {name: EvaluatedRun(name, [], run, {}) for name in "abc"}
    has = [("a", "blank"), ("b", "blank"), ("b", "shuffled"), ("c", "blank"), ("c", "shuffled")]
    looking = compute_looking(runs, [ControlRun(name, control, [], run) for name, control in has], "a")
    pairs = [(look.run, look.baseline, look.control) for look in looking.looks if look.baseline]
    assert pairs == [("b", "a", "blank"), ("c", "a", "blank"), ("c", "b", "shuffled")]


def test_notes_say_what_else_may_have_changed_the_answers():
    run = [answered("<answer>yes</answer>", ["yes"])]
    runs = {name: EvaluatedRun(name, [], run, {}) for name in "ab"}
    controls = [
        ControlRun(name, "shuffled", [{"decoding": decoding, "settings": {"seed": seed}}], run)
        for name, decoding, seed in (("a", "greedy", 0), ("b", "sampling", 1))
    ]
    sampled, seeds = compute_looking(runs, controls, "a").notes
    assert "sampled" in sampled
    assert "different seeds" in seeds
    assert compute_looking(runs, controls[:1], "a").notes == []

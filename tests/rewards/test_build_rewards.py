"""Rewards by name: how they are built, and the matrix of their scores."""

from __future__ import annotations

import sys
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch

import plugin
from swift.plugin import orms
from swift.plugin.rewards import build_rewards, required_columns, reward_matrix
from swift.utils.errors import UserError


@pytest.fixture
def registered(monkeypatch):
    """Register rewards for one test only."""

    def register(**rewards):
        for name, reward in rewards.items():
            monkeypatch.setitem(orms, name, reward)

    return register


def test_scores_are_one_column_a_reward_and_nan_for_none(registered):
    registered(
        first=lambda completions, **columns: [float(len(text)) for text in completions],
        second=lambda completions, bonus, **columns: [None, bonus[1]],
    )
    scores = reward_matrix(build_rewards(["first", "second"]), ["a", "bbb"], {"bonus": [0.5, True]})
    assert scores.dtype == np.float32
    np.testing.assert_array_equal(scores, [[1.0, np.nan], [3.0, 1.0]])


def test_required_columns_are_the_parameters_without_default(registered):
    registered(needs=lambda completions, truth, weight=1.0, **columns: completions)
    rewards = build_rewards(["external_r1v_acc", "external_countdown", "needs", "external_code_reward"])
    assert required_columns(rewards) == {
        "solution": "external_r1v_acc",
        "target": "external_countdown",
        "nums": "external_countdown",
        "truth": "needs",
    }


def test_a_class_takes_its_settings_from_the_arguments_by_name(registered):
    class Capped:
        def __init__(self, tokenizer, max_completion_length=5, other=7):
            self.built_with = (tokenizer, max_completion_length, other)

        def __call__(self, completions, **columns):
            return [0.0] * len(completions)

    registered(capped=Capped)
    settings = type("Settings", (), {"max_completion_length": 256})()
    [(_, reward)] = build_rewards(["capped"], settings, tokenizer="the tokenizer")
    assert reward.built_with == ("the tokenizer", 256, 7)


def test_an_instance_is_used_as_it_is(registered):
    instance = plugin.MathFormatORM()
    registered(ready=instance)
    assert build_rewards(["ready"]) == [("ready", instance)]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "--reward_funcs is empty"),
        (["external_rlv_acc"], "unknown reward 'external_rlv_acc'; did you mean 'external_r1v_acc'"),
        (["zzzz"], "unknown reward 'zzzz'; known: accuracy, cosine, external_acc_strict, "),
        (["external_kg_jac", "external_kg_jac"], "names 'external_kg_jac' twice"),
    ],
)
def test_wrong_reward_names_are_named(names, message):
    with pytest.raises(UserError, match=message):
        build_rewards(names)


def broken(completions, **columns):
    raise KeyError("laterality")


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (lambda completions, **columns: [0.0], "'bad' returned 1 values for 2 completions"),
        (lambda completions, **columns: [0.0, float("nan")], "'bad' returned nan for completion 1"),
        (lambda completions, **columns: [float("inf"), 0.0], "'bad' returned inf for completion 0"),
        (lambda completions, **columns: 1.0, "'bad' returned a float; return a list of 2 numbers"),
        (lambda completions, **columns: None, "'bad' returned a NoneType; return a list"),
        (lambda completions, **columns: (1.0 for _ in completions), "'bad' returned a generator; return a list"),
        (lambda completions, **columns: map(len, completions), "'bad' returned a map; return a list"),
        (lambda completions, **columns: dict.fromkeys(completions, 1.0), "'bad' returned a dict; return a list"),
        (lambda completions, **columns: {0.0, 1.0}, "'bad' returned a set; return a list"),
        (lambda completions, **columns: "12", "'bad' returned a str; return a list"),
        (lambda completions, **columns: np.array(1.0), "'bad' returned a float; return a list"),
        (lambda completions, **columns: np.ones((2, 1)), "'bad' returned a list for completion 0"),
        (lambda completions, **columns: ["1", 0.0], "'bad' returned a str for completion 0"),
        (lambda completions, **columns: [1.0, 1j], "'bad' returned a complex for completion 1"),
        (lambda completions, **columns: np.array([1j, 0]), "'bad' returned a complex for completion 0"),
        (lambda completions, **columns: [0, 10**400], "'bad' returned a number too large for float for completion 1"),
        (lambda completions, **columns: [-(10**5000), 0], "'bad' returned a number too large for float"),
        (lambda completions, **columns: [[1.0], [2.0]], "'bad' returned a list for completion 0"),
        (lambda completions, **columns: [torch.ones(2), 1], "'bad' returned a Tensor for completion 0"),
        (lambda completions, **columns: [np.float32("nan"), 1], "'bad' returned nan for completion 0"),
        (lambda completions, **columns: [1e16, 1], "'bad' returned 1e\\+16 for completion 0"),
        (lambda completions, **columns: sys.exit(0), r"'bad' failed: .*test_build_rewards.py line \d+: SystemExit: 0"),
        (lambda completions, **columns: next(iter(())), "'bad' failed: .*: StopIteration"),
        (broken, r"'bad' failed: .*test_build_rewards.py line \d+: KeyError: 'laterality'"),
    ],
)
def test_a_reward_that_misbehaves_is_named(registered, reward, message):
    registered(bad=reward)
    with pytest.raises(UserError, match=message):
        reward_matrix(build_rewards(["bad"]), ["a", "b"], {})


@pytest.mark.parametrize(
    "returned",
    [
        (0.5, None),
        np.array([0.5, None]),
        [np.float16(0.5), None],
        [torch.tensor(0.5), None],
        [torch.ones(1, requires_grad=True) / 2, None],
        [Fraction(1, 2), None],
        [Decimal("0.5"), None],
    ],
    ids=["tuple", "array", "numbers of numpy", "tensors of none", "tensors of one", "fractions", "decimals"],
)
def test_what_is_clearly_numbers_is_taken(returned):
    matrix = reward_matrix([("good", lambda completions, **columns: returned)], ["a", "b"], {})
    np.testing.assert_array_equal(matrix, [[0.5], [np.nan]])


@pytest.mark.parametrize(
    "returned", [np.array([True, False]), torch.tensor([1, 0]), torch.tensor([1.0, 0.0]).bfloat16()]
)
def test_an_array_or_tensor_is_taken(returned):
    assert reward_matrix([("good", lambda completions, **columns: returned)], ["a", "b"], {}).tolist() == [[1], [0]]


def test_a_column_of_the_wrong_length_is_named():
    with pytest.raises(ValueError, match="'solution' has 1 values for 2 completions"):
        reward_matrix([("external_r1v_acc", plugin.MultiModalAccuracyORM())], ["a", "b"], {"solution": ["a"]})

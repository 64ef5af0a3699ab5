"""Truth tables of the rewards that are there without a plugin: accuracy, format, cosine, repetition, soft_overlong."""

from __future__ import annotations

import itertools
import math
import random
from types import SimpleNamespace

import pytest

from swift.llm.arguments import parse_rlhf_args
from swift.plugin import orms
from swift.plugin.built_in import AccuracyORM, CosineORM, half_cosine, is_right, repeated_share
from swift.plugin.rewards import build_rewards, reward_matrix
from swift.utils.errors import UserError

NAMES = ["accuracy", "format", "cosine", "repetition", "soft_overlong"]

ACCURACY = [
    ("asdf", "<answer>yes</answer>", 0.0, "garbage"),
    ("", "<answer>yes</answer>", 0.0, "nothing said"),
    ("<think>x</think><answer>Yes.</answer>", "<think>y</think><answer>yes</answer>", 1.0, "the answer in words"),
    ("<answer>yes, no</answer>", "<answer>yes</answer>", 0.0, "both answers are not the answer"),
    ("<answer>edema</answer>", "<answer>edema, mass</answer>", 0.0, "one of two is missing"),
    ("<answer>mass and edema</answer>", "<answer>edema, mass</answer>", 1.0, "another order and separator"),
    ("<answer>(A)</answer>", "<answer>a</answer>", 1.0, "the letter of an option"),
    ("<answer></answer>", "<answer></answer>", 1.0, "nothing to list and nothing listed"),
    ("<answer>4</answer>", "<answer>3</answer>", 0.0, "another number"),
    ("<answer>3.0</answer>", "<answer>3</answer>", 1.0, "the same number"),
    ("It is 3.", "3", 1.0, "a number in a sentence"),
    ("The answer is \\boxed{\\frac{1}{2}}", "$0.5$", 1.0, "a fraction in a box"),
    ("<answer>0.5</answer>", "<answer>\\frac12</answer>", 1.0, "LaTeX without delimiters"),
    ("<answer>$\\frac13$</answer>", "<answer>$\\frac12$</answer>", 0.0, "another fraction"),
]


@pytest.mark.parametrize(("completion", "solution", "expected", "reason"), ACCURACY)
def test_accuracy(completion, solution, expected, reason):
    assert AccuracyORM()([completion], solution=[solution]) == [expected], reason


def test_each_completion_has_its_own_solution():
    solutions = ["<answer>yes</answer>", "<answer>3</answer>", "<answer>no</answer>"]
    assert AccuracyORM()(solutions[::-1], solution=solutions) == [0.0, 1.0, 0.0]
    assert AccuracyORM()(solutions, solution=solutions) == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("completion", "expected", "reason"),
    [
        ("asdf", 0.0, "garbage"),
        ("<think>a</think><answer>b</answer>", 1.0, "both spans"),
        (" <think>a</think>\n\n<answer>b</answer>\n", 1.0, "blanks around"),
        ("<think></think><answer></answer>", 1.0, "empty spans are spans"),
        ("<think>a</think><answer>b</answer> more", 0.0, "text after the answer"),
        ("Well. <think>a</think><answer>b</answer>", 0.0, "text before"),
        ("<answer>b</answer><think>a</think>", 0.0, "the other order"),
        ("<think>a</think>", 0.0, "no answer"),
        ("<think>a</think><answer>b</answer><answer>c</answer>", 0.0, "two answers"),
    ],
)
def test_format(completion, expected, reason):
    assert orms["format"]()([completion]) == [expected], reason


def cosine(length: int, right: bool, **settings) -> float:
    reward = CosineORM(max_completion_length=100, **settings)
    completion = f"<answer>{'yes' if right else 'no'}</answer>"
    (value,) = reward([completion], solution=["<answer>yes</answer>"], completion_tokens=[length])
    return value


@pytest.mark.parametrize(
    ("length", "right", "expected", "reason"),
    [
        (0, True, 1.0, "right at once"),
        (50, True, 0.75, "half way from 1 to 0.5"),
        (100, True, 0.5, "right at the limit"),
        (900, True, 0.5, "no further beyond the limit"),
        (0, False, -0.5, "wrong at once"),
        (50, False, -0.25, "half way from -0.5 to 0"),
        (100, False, 0.0, "wrong at the limit"),
        (25, True, 0.5 + 0.5 * (1 + math.cos(math.pi / 4)) / 2, "a quarter of the way is not linear"),
    ],
)
def test_cosine(length, right, expected, reason):
    assert cosine(length, right) == pytest.approx(expected), reason


def test_cosine_takes_its_values_from_the_flags():
    flags = {"cosine_max_len": 10, "cosine_max_len_value_correct": 0.2, "cosine_min_len_value_wrong": -3.0}
    assert cosine(10, True, **flags) == pytest.approx(0.2)
    assert cosine(0, False, **flags) == pytest.approx(-3.0)


def test_half_a_cosine_falls_without_a_jump():
    values = [half_cosine(length, 50, 1.0, -1.0) for length in range(60)]
    assert values == sorted(values, reverse=True)
    assert max(abs(a - b) for a, b in itertools.pairwise(values)) < 0.07


@pytest.mark.parametrize(
    ("text", "size", "expected", "reason"),
    [
        ("", 3, 0.0, "nothing said"),
        ("two words", 3, 0.0, "shorter than a sequence"),
        ("no edema no mass", 3, 0.0, "two sequences, both new"),
        ("a a a a", 3, 1 / 2, "one of two sequences is new"),
        ("A a A a", 1, 3 / 4, "case does not count"),
        ("a b c a b c", 3, 1 / 4, "abc, bca, cab, abc: three of four are new"),
    ],
)
def test_repeated_share(text, size, expected, reason):
    assert repeated_share(text, size) == pytest.approx(expected), reason
    assert orms["repetition"](size, -2.0)([text]) == [pytest.approx(-2 * expected)]


def test_repeated_share_equals_counting_one_by_one():
    generator = random.Random(0)
    for _ in range(200):
        words = generator.choices("abc", k=generator.randrange(12))
        seen, repeated, total = [], 0, 0
        for start in range(len(words) - 1):
            pair = words[start : start + 2]
            repeated, total = repeated + (pair in seen), total + 1
            seen.append(pair)
        assert repeated_share(" ".join(words), 2) == pytest.approx(repeated / total if total else 0.0)


@pytest.mark.parametrize(("length", "expected"), [(0, 0.0), (60, 0.0), (80, -0.5), (100, -1.0), (500, -1.0)])
def test_soft_overlong(length, expected):
    reward = orms["soft_overlong"](soft_max_length=100, soft_cache_length=40)
    assert reward(["x"], completion_tokens=[length]) == [pytest.approx(expected)]


def test_the_tokenizer_counts_where_no_tokens_are_given():
    tokenizer = SimpleNamespace(encode=lambda text, add_special_tokens: text.split())
    reward = orms["soft_overlong"](tokenizer, soft_max_length=4, soft_cache_length=2)
    assert reward(["a b c"]) == [-0.5]


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("soft_overlong", {}, "--soft_cache_length"),
        ("soft_overlong", {"soft_cache_length": 9, "soft_max_length": 9}, "soft_cache_length 9 must be in 1..8"),
        ("cosine", {"cosine_max_len": 0}, "cosine_max_len 0"),
        ("repetition", {"repetition_n_grams": 0}, "repetition_n_grams 0"),
        ("repetition", {"repetition_max_penalty": 1.0}, "repetition_max_penalty 1.0"),
    ],
)
def test_settings_that_make_no_reward_are_refused(name, settings, words):
    with pytest.raises(UserError, match=f"reward '{name}' cannot be set up.*{words}"):
        build_rewards([name], SimpleNamespace(max_completion_length=20, **settings))


def test_flags_reach_the_rewards(tmp_path):
    command = f"--model m --dataset d --output_dir {tmp_path}/run --max_completion_length 40 --soft_cache_length 10"
    flags = "--repetition_n_grams 1 --cosine_max_len 30 --cosine_max_len_value_correct 0.1"
    _, _, training = parse_rlhf_args([*f"{command} {flags} --reward_funcs".split(), *NAMES])
    matrix = reward_matrix(
        build_rewards(NAMES, training),
        ["<answer>yes</answer> a a"],
        {"solution": ["<answer>yes</answer>"], "completion_tokens": [35]},
    )
    assert matrix[0].tolist() == pytest.approx([1.0, 0.0, 0.1, -1 / 3, -0.5])


def test_a_solution_in_words_needs_no_mathematics(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "math_verify", None)
    assert is_right("<answer>Edema</answer>", "<answer>edema</answer>")
    assert is_right("<answer>3</answer>", "<answer>3</answer>")
    with pytest.raises(ImportError, match="pip install math_verify"):
        is_right("<answer>3</answer>", "<answer>\\frac12</answer>")

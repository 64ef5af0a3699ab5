"""Truth tables of the rewards for countdown, mathematics and code. A row ends with the score and the reason."""

from __future__ import annotations

import sys
import time
from functools import partial

import pytest

import plugin
from swift.plugin.rewards import build_rewards
from swift.utils.errors import UserError
from utils.countdown import solves_countdown
from utils.run_code import fenced_code, fraction_passed, run_python

limited = partial(run_python, confined=False)  # tests/rewards/test_code_attacks.py is about the sandbox

COUNTDOWN = [
    ("asdf", [1, 2], 3, False, "garbage"),
    ("", [1, 2], 3, False, "empty"),
    ("1 + 2", [1, 2], 3, True, "plain"),
    ("1 + 2 = 3", [1, 2], 3, True, "the part after = is not read"),
    ("1 + 2", [1, 2], 4, False, "wrong value"),
    ("3", [1, 2], 3, False, "numbers left out"),
    ("1 + 2 + 1", [1, 2], 4, False, "a number used twice"),
    ("12", [1, 2], 12, False, "numbers may not be glued"),
    ("(8 - 2) / 3 * 4", [8, 2, 3, 4], 8, True, "precedence and brackets"),
    ("8 / 3 * 3", [8, 3, 3], 8, True, "exact division"),
    ("-1 + 4", [1, 4], 3, True, "a leading minus"),
    ("2 ** 3", [2, 3], 8, False, "powers are not allowed"),
    ("7 // 2", [7, 2], 3, False, "floor division is not allowed"),
    ("1 / 0", [1, 0], 1, False, "division by zero"),
    ("01 + 2", [1, 2], 3, False, "not a number"),
    ("1.0 + 2", [1, 0, 2], 3, False, "a decimal point would glue 1 and 0"),
    ("1 2", [1, 2], 3, False, "not an expression"),
    ("1 + x", [1], 3, False, "names"),
    ("__import__('os')", [], 0, False, "calls"),
    ("(" * 150 + "1" + ")" * 150, [1], 1, False, "too long to be meant"),
]


@pytest.mark.parametrize(("equation", "numbers", "target", "expected", "reason"), COUNTDOWN)
def test_countdown_truth_table(equation, numbers, target, expected, reason):
    assert solves_countdown(equation, numbers, target) is expected, reason


def test_countdown_reads_the_answer_span_and_its_own_row():
    completions = ["1+2", "<answer>1+2</answer>", "<answer>1+2</answer>"]
    rewards = plugin.CountdownORM()(completions, nums=[[1, 2]] * 3, target=[3, 3, 4])
    assert rewards == [0.0, 1.0, 0.0]


def test_math_accuracy_without_its_library_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "math_verify", None)
    with pytest.raises(UserError, match=r"external_math_acc.*pip install math_verify"):
        build_rewards(["external_math_acc"])


@pytest.mark.parametrize(
    ("completion", "solution", "expected", "reason"),
    [
        ("asdf", "$3$", 0.0, "garbage"),
        ("<think>$3$</think><answer>$4$</answer>", "$3$", 0.0, "the answer counts, not the thinking"),
        (r"<answer>$\frac{1}{2}$</answer>", r"<answer>$0.5$</answer>", 1.0, "equal as mathematics"),
        ("$3$", "no number here", 0.0, "a truth that is not mathematics"),
    ],
)
def test_math_accuracy_truth_table(completion, solution, expected, reason):
    pytest.importorskip("math_verify", reason="math_verify is not installed; it is optional")
    assert plugin.MathAccuracyORM()([completion], solution=[solution]) == [expected], reason


def fenced(code: str, language: str = "python") -> str:
    return f"<think>a</think><answer>```{language}\n{code}\n```</answer>"


DOUBLING = {
    "language": "python",
    "test_cases": [{"input": "2", "output": "4"}, {"input": "-1\n", "output": "-2\n"}],
}

CODE = [
    ("asdf", DOUBLING, 0.0, "garbage"),
    (fenced("print(2 * int(input()))"), DOUBLING, 1.0, "both cases pass"),
    (fenced("print(int(input()) + 2)"), DOUBLING, 0.5, "2 + 2 passes, -1 + 2 does not"),
    (fenced("print(2 * int(input())"), DOUBLING, 0.0, "syntax error"),
    (fenced("print(4); raise SystemExit(1)"), DOUBLING, 0.0, "failing exit status"),
    (fenced("print(2 * int(input()))", "java"), DOUBLING, 0.0, "block in another language"),
    (fenced("print(4)") + fenced("print(2 * int(input()))"), DOUBLING, 1.0, "the last block counts"),
    (fenced("print(1)"), None, 0.0, "no verification_info"),
    (fenced("print(1)"), {**DOUBLING, "test_cases": []}, 0.0, "no test cases"),
    (fenced("print(2 * int(input()))"), {**DOUBLING, "language": "java"}, 0.0, "another language is wanted"),
]


@pytest.mark.parametrize(("completion", "info", "expected", "reason"), CODE)
def test_code_reward_truth_table(monkeypatch, completion, info, expected, reason):
    monkeypatch.setenv("CHEX_RUN_CODE", "unsafe")
    assert plugin.CodeRewardORM()([completion], verification_info=[info]) == [expected], reason


def test_code_reward_accepts_verification_info_as_json_text(monkeypatch):
    monkeypatch.setenv("CHEX_RUN_CODE", "unsafe")
    text = '{"language": "python", "test_cases": [{"input": "", "output": "1"}]}'
    assert plugin.CodeRewardORM()([fenced("print(1)")], verification_info=[text]) == [1.0]


def test_code_reward_is_zero_for_data_without_the_column():
    assert plugin.CodeRewardORM()(["a", "b"], solution=["c", "d"]) == [0.0, 0.0]


def test_code_does_not_run_unless_asked(monkeypatch):
    monkeypatch.delenv("CHEX_RUN_CODE", raising=False)
    with pytest.raises(ValueError, match="CHEX_RUN_CODE=1"):
        plugin.CodeRewardORM()([fenced("print(1)")], verification_info=[DOUBLING])


def test_a_misspelt_switch_is_refused(monkeypatch):
    monkeypatch.setenv("CHEX_RUN_CODE", "yes")
    with pytest.raises(ValueError, match="CHEX_RUN_CODE='yes'"):
        plugin.CodeRewardORM()


@pytest.mark.parametrize(
    ("program", "seconds", "reason"),
    [
        ("while True: pass", 1, "endless loop"),
        ("x = bytearray(2**30); print(1)", 20, "1 GiB of memory"),
        ("print('x' * 2**21)", 20, "2 MiB of output"),
    ],
)
def test_limited_process_stops(program, seconds, reason):
    started = time.monotonic()
    assert limited(program, seconds=seconds) is None, reason
    assert time.monotonic() - started < 10


def test_limited_process_sees_no_environment_and_no_files_of_ours(monkeypatch):
    monkeypatch.setenv("CHEX_SECRET", "x")
    printed = limited("import os; print(sorted(set(os.environ) - {'LC_CTYPE'}), sorted(os.listdir()))")
    assert printed == "[] []\n"


@pytest.mark.parametrize(
    "program",
    [
        "import subprocess; print(subprocess.Popen(['sleep', '60']).pid)",
        "import os\nchild = os.fork()\nif child:\n  print(child)\nelse:\n  os.setsid()\n  while True: pass",
    ],
    ids=["killed with its session", "busy in a session of its own until its CPU time is up"],
)
def test_what_the_program_started_ends_too(program):
    child = int(limited(program, seconds=1))
    deadline = time.monotonic() + 8
    while _is_running(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _is_running(child)


def _is_running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_outputs_are_compared_line_by_line_without_trailing_blanks():
    assert fraction_passed("print('a ')\nprint('b')", [{"input": "", "output": "a\nb\n"}], limited) == 1.0
    assert fraction_passed("print('a b')", [{"input": "", "output": "a\nb\n"}], limited) == 0.0


def test_inputs_and_outputs_may_be_numbers():
    assert fraction_passed("print(2 * int(input()))", [{"input": 2, "output": 4}], limited) == 1.0


def test_fenced_code_picks_the_language():
    text = "```java\nx\n```\n```Python\ny\n```\n```\nz\n```"
    assert [fenced_code(text, name) for name in ("java", "python", None, "go")] == ["x\n", "y\n", "z\n", None]


@pytest.mark.parametrize(
    ("completion", "info", "expected", "reason"),
    [
        ("asdf", DOUBLING, 0.0, "garbage"),
        (fenced("x"), DOUBLING, 1.0, "shape and language"),
        (fenced("x", "java"), DOUBLING, 0.0, "another language"),
        (fenced("x", "java"), None, 1.0, "any language where the row names none"),
        ("```python\nx\n```", DOUBLING, 0.0, "no think/answer shape"),
        ("<think>```python\nx\n```</think><answer>y</answer>", DOUBLING, 0.0, "the block must be in the answer"),
    ],
)
def test_code_format_truth_table(completion, info, expected, reason):
    assert plugin.CodeFormatORM()([completion], verification_info=[info]) == [expected], reason

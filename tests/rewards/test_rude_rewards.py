"""Rewards that change what is not theirs, or end what they were not asked to end."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from swift.plugin import calling, guards, orms
from swift.plugin.loader import load_external_plugins
from swift.plugin.rewards import build_rewards, lack_of, reward_matrix, reward_metrics
from swift.trainers.rlhf_trainer import scoring
from swift.utils.errors import UserError
from tests.support.grpo_runs import make_trainer


def good(completions, **columns):
    return [0.0] * len(completions)


def spoil(completions, **columns):
    """Change all that a reward is given, however deep."""
    completions[:] = ["spoiled"] * len(completions)
    columns["messages"][0][0]["content"] = "spoiled"
    columns["images"].clear()
    columns["nums"][1].append(7)
    columns["solution"].reverse()
    columns["trainer_state"].global_step = 0
    return [0.0, 0.0]


@pytest.mark.parametrize("others", [1, 0], ids=["in threads", "one after the other"])
def test_what_a_reward_changes_is_its_own(others):
    seen = []

    def look(completions, **columns):
        seen.append((completions, columns))
        return [0.0, 0.0]

    def given() -> tuple[list, dict]:
        columns = {
            "messages": [[{"role": "user", "content": "Is it?"}]] * 2,
            "images": ["a.png", "b.png"],
            "nums": [[1, 2], [3]],
            "solution": ["a", "b"],
            "trainer_state": SimpleNamespace(global_step=5),
        }
        return ["yes", "no"], columns

    completions, columns = given()
    for rewards in [[("spoil", spoil), ("look", look)]] if others else [[("spoil", spoil)], [("look", look)]]:
        reward_matrix(rewards, completions, columns)
    assert seen == [given()]
    assert (completions, columns) == given()


def test_figures_have_the_time_limit_of_rewards():
    class Slow:
        def metrics(self, completions, **columns):
            time.sleep(5)

    with pytest.raises(UserError, match=r"reward 'slow.metrics' took more than --reward_timeout 0.1 seconds"):
        reward_metrics([("slow", Slow())], ["a"], {}, timeout=0.1)


def test_a_plugin_that_is_slow_to_import_shows_a_sign_of_life(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(calling, "SIGN_OF_LIFE", 0.05)
    tmp_path.joinpath("slow_import.py").write_text("import time\ntime.sleep(0.2)\n")
    load_external_plugins([tmp_path / "slow_import.py"])
    assert caplog.messages[0].startswith(f"waiting for --external_plugins {tmp_path / 'slow_import.py'} since ")


def test_figures_and_questions_before_training_get_copies_too():
    class Spoils:
        def metrics(self, completions, solution, **columns):
            completions.clear()
            solution[0].append("spoiled")
            return {}

        def lacking(self, rows):
            rows[0]["solution"].append("spoiled")
            rows[0]["solution"] = None

    completions, columns = ["a"], {"solution": [["b"]]}
    reward_metrics([("spoils", Spoils())], completions, columns)
    assert lack_of(Spoils(), rows := [{"solution": ["b"]}]) is None
    assert (completions, columns, rows) == (["a"], {"solution": [["b"]]}, [{"solution": ["b"]}])


@pytest.fixture
def warnings(caplog):
    """Messages of the project's logger."""
    guards._warn_of_change.cache_clear()
    return caplog


def changes(name: str, value: object):
    def reward(completions, **columns):
        getattr(torch, name)(value)
        return [0.0]

    return reward


@pytest.mark.parametrize(
    ("reward", "words"),
    [
        (lambda completions, **columns: os.chdir("/") or [0.0], "the working directory to /"),
        (changes("set_grad_enabled", False), "torch's gradient mode to False"),
        (changes("set_default_dtype", torch.float64), "torch's default type to torch.float64"),
        (changes("set_num_threads", 7), "torch's number of threads to 7"),
        (changes("set_float32_matmul_precision", "medium"), "torch's precision to medium"),
        (lambda completions, **columns: [signal.signal(signal.SIGTERM, signal.SIG_IGN) and 0.0], "of SIGTERM"),
    ],
    ids=["folder", "gradients", "type", "threads", "precision", "signal"],
)
def test_settings_of_the_process_are_changed_back_with_one_warning(reward, words, warnings):
    def settings() -> list:
        return [read() for _, read, _ in guards._settings(False)]

    before = settings()
    for _ in range(2):
        reward_matrix([("rude", reward)], ["a"], {})
    assert settings() == before
    assert [record.message for record in warnings.records] == [
        record.message for record in warnings.records if words in record.message
    ]
    (record,) = warnings.records
    assert record.message.startswith("reward rude changed ")
    assert record.message.endswith("; it is changed back")


def test_a_folder_is_changed_back_for_plugins_constructors_and_other_threads(tmp_path, monkeypatch, warnings):
    before = os.getcwd()
    text = """
import os
from swift.plugin import orms
os.chdir("/")
class Moves:
    def __init__(self):
        os.chdir("/")
    def __call__(self, completions, **columns):
        os.chdir("/usr")
        return [0.0] * len(completions)
    async def later(self, completions, **columns):
        return self(completions)
orms["moves"] = Moves
orms["moves_later"] = Moves().later
"""
    tmp_path.joinpath("moves.py").write_text(text)
    load_external_plugins([tmp_path / "moves.py"])
    assert os.getcwd() == before
    rewards = build_rewards(["moves", "moves_later"])
    assert os.getcwd() == before
    reward_matrix(rewards, ["a"], {})
    assert os.getcwd() == before


def test_a_folder_that_is_gone_is_one_line(tmp_path, monkeypatch):
    def removes(completions, **columns):
        os.chdir("/")
        tmp_path.joinpath("here").rmdir()
        return [0.0]

    tmp_path.joinpath("here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(UserError, match="reward removes changed the working directory, which cannot be changed back: "):
        reward_matrix([("removes", removes)], ["a"], {})


def test_random_numbers_of_training_do_not_depend_on_rewards():
    """A reward that seeds would otherwise make every step draw alike."""

    def seeds(completions, **columns):
        random.seed(0), np.random.seed(0), torch.manual_seed(0)
        return good(completions)

    def draws(completions, **columns):
        return [random.random() + np.random.rand() + torch.rand(()).item() for _ in completions]

    def after(*rewards) -> tuple:
        random.seed(3), np.random.seed(3), torch.manual_seed(3)
        scores = [reward_matrix([(f"r{i}", r) for i, r in enumerate(rewards)], ["a"], {}).tolist() for _ in range(2)]
        return (random.random(), np.random.rand(), torch.rand(()).item()), scores

    numbers, _ = after(good)
    assert after(seeds)[0] == after(seeds, good)[0] == numbers
    _, first = after(draws)
    assert first == after(draws)[1]  # a repeated run scores alike
    assert first[0] != first[1]  # and calls differ


@pytest.mark.parametrize("kind_of_error", [SystemExit, KeyboardInterrupt, asyncio.CancelledError, GeneratorExit])
@pytest.mark.parametrize("kind", ["alone", "thread", "coroutine", "coroutine of a function"])
def test_a_reward_that_ends_the_process_is_an_error(kind, kind_of_error):
    def ends(completions, **columns):
        raise kind_of_error

    async def ends_later(completions, **columns):
        raise kind_of_error

    ended = {"alone": ends, "thread": ends, "coroutine": ends_later}.get(kind, lambda *_, **__: ends_later([]))
    rewards = [("ends", ended), *([] if kind == "alone" else [("good", good)])]
    expected = KeyboardInterrupt if kind == "alone" and kind_of_error is KeyboardInterrupt else UserError
    with pytest.raises(expected) as caught:
        reward_matrix(rewards, ["a"], {})
    assert expected is KeyboardInterrupt or "reward 'ends' failed: " in str(caught.value)
    assert "\n" not in str(caught.value)
    assert reward_matrix([("good", good), ("fine", good)], ["a"], {}).tolist() == [
        [0.0, 0.0]
    ]  # and the loop still runs


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import sys\nsys.exit(0)\n", r"leaves.py: line 2: SystemExit: 0; fix the plugin"),
        ("raise BaseException('no')\n", r"leaves.py: line 1: BaseException: no; fix the plugin"),
    ],
)
def test_a_plugin_that_ends_the_process_is_an_error(tmp_path, text, words):
    tmp_path.joinpath("leaves.py").write_text(text)
    with pytest.raises(UserError, match=words):
        load_external_plugins([tmp_path / "leaves.py"])


def test_other_methods_that_end_the_process_are_errors(monkeypatch):
    class Leaves:
        def __init__(self, now: bool = True):
            sys.exit(0) if now else None

        def __call__(self, completions, **columns):
            return good(completions)

        def metrics(self, completions, **columns):
            sys.exit(0)

        def lacking(self, rows):
            sys.exit(0)

    monkeypatch.setitem(orms, "leaves", Leaves)
    with pytest.raises(UserError, match=r"'leaves' cannot be set up: .*SystemExit: 0"):
        build_rewards(["leaves"])
    with pytest.raises(UserError, match=r"'leaves.metrics' failed: .*SystemExit: 0"):
        reward_metrics([("leaves", Leaves(False))], ["a"], {})
    with pytest.raises(UserError, match=r"Leaves failed in lacking: .*SystemExit: 0"):
        lack_of(Leaves(False), [{}])


def test_a_reward_that_never_applies_is_warned_of_once(tmp_path, world, monkeypatch, caplog):
    monkeypatch.setattr(scoring, "SILENT_CALLS", 2)
    monkeypatch.setitem(orms, "silent", lambda completions, **columns: [None] * len(completions))
    make_trainer(world, tmp_path / "run", reward_funcs=["silent"], max_steps=3).train()
    assert [record.message for record in caplog.records if "appl" in record.message] == [
        "no reward applies to any completion of a step: there is nothing to learn from it",
        "reward silent applied to no completion so far; see what it reads, or leave it out",
    ]

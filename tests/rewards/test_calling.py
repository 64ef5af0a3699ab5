"""Rewards of a step run at once, coroutines among them, and one that hangs or fails is named."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from functools import partial

import pytest

from swift.plugin import calling
from swift.plugin.loader import load_external_plugins
from swift.plugin.rewards import build_rewards, required_columns, reward_matrix
from swift.utils.errors import UserError
from tests.support.builders import ROOT


def slow(value: float, seconds: float = 0.3):
    def reward(completions, **columns):
        time.sleep(seconds)
        return [value] * len(completions)

    return reward


def slow_coroutine(value: float, seconds: float = 0.3):
    async def reward(completions, **columns):
        await asyncio.sleep(seconds)
        return [value] * len(completions)

    return reward


class Judge:
    """A reward with an asynchronous call, which keeps what belongs to an event loop between calls."""

    def __init__(self):
        self.lock = None

    async def __call__(self, completions, **columns):
        loop = asyncio.get_running_loop()
        self.lock = self.lock or (asyncio.Lock(), loop)
        assert self.lock[1] is loop
        async with self.lock[0]:
            return [float(len(text)) for text in completions]


def test_all_rewards_run_at_once_and_keep_their_columns():
    rewards = [("a", slow(1)), ("b", slow_coroutine(2)), ("c", slow(3)), ("d", slow_coroutine(4)), ("e", Judge())]
    began = time.monotonic()
    assert reward_matrix(rewards, ["x", "yy"], {}).tolist() == [[1, 2, 3, 4, 1], [1, 2, 3, 4, 2]]
    assert time.monotonic() - began < 0.9  # one after the other: 1.2


def test_coroutines_of_all_calls_share_an_event_loop():
    judge = Judge()
    for text in ("a", "aa"):
        assert reward_matrix([("judge", judge)], [text], {}).tolist() == [[len(text)]]


def test_a_function_that_returns_a_coroutine_is_awaited():
    inner = slow_coroutine(5, 0.0)
    rewards = [("wrapped", lambda completions, **columns: inner(completions)), ("partial", partial(inner))]
    assert reward_matrix(rewards, ["x"], {}).tolist() == [[5, 5]]
    assert reward_matrix(rewards[:1], ["x"], {}).tolist() == [[5]]


@pytest.mark.parametrize("late", [slow(1, 5), slow_coroutine(1, 5)], ids=["thread", "coroutine"])
@pytest.mark.parametrize("others", [[], [("quick", slow(0, 0))]], ids=["alone", "with another"])
def test_a_reward_that_takes_too_long_is_named(late, others):
    began = time.monotonic()
    with pytest.raises(
        UserError, match=r"^reward 'judge' took more than --reward_timeout 0\.2 seconds; see what"
    ) as caught:
        reward_matrix([*others, ("judge", late)], ["x"], {}, timeout=0.2)
    assert time.monotonic() - began < 2
    assert "\n" not in str(caught.value)


def test_a_reward_that_fails_is_named_while_others_still_run():
    async def broken(completions, **columns):
        raise KeyError("laterality")

    began = time.monotonic()
    with pytest.raises(UserError, match=r"^reward 'bad' failed: .*test_calling.py line \d+: KeyError: 'laterality'"):
        reward_matrix([("slow", slow(1, 5)), ("bad", broken)], ["x"], {})
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("rewards", [[slow(1)], [slow(1), slow_coroutine(1)]], ids=["one", "several"])
def test_there_is_a_sign_of_life_while_rewards_are_slow(monkeypatch, caplog, rewards):
    monkeypatch.setattr(calling, "SIGN_OF_LIFE", 0.1)
    logging.getLogger("chex").addHandler(caplog.handler)
    reward_matrix([(f"judge{place}", reward) for place, reward in enumerate(rewards)], ["x"], {})
    logging.getLogger("chex").removeHandler(caplog.handler)
    assert caplog.messages[0].startswith("waiting for reward judge0")


def test_a_reward_alone_runs_in_the_calling_thread():
    """As it always did: signals that it causes are handled at once."""
    seen = []
    reward_matrix([("one", lambda completions, **columns: seen.append(threading.current_thread()) or [0.0])], ["x"], {})
    assert seen == [threading.current_thread()]


# Metrics of rewards' own


def logging_reward(completions, solution, log_metric, **columns):
    log_metric("judge/agreed", 0.5)
    log_metric("judge/agreed", 1)
    return [0.0] * len(completions)


def test_a_reward_that_asks_for_it_logs_metrics():
    logged = []
    matrix = reward_matrix(
        [("judge", logging_reward), ("plain", slow(1, 0))],
        ["x"],
        {"solution": ["s"]},
        log_metric=lambda name, value: logged.append((name, value)),
    )
    assert matrix.tolist() == [[0, 1]]
    assert logged == [("judge/agreed", 0.5), ("judge/agreed", 1.0)]


def test_log_metric_is_no_column_of_the_data():
    assert required_columns([("judge", logging_reward)]) == {"solution": "judge"}


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [("loss", 1, "'loss' is a name that the log has already"), ("rewards/x", 1, "'rewards/x' is a name"),
     ("agreed", float("nan"), "'agreed' is nan; log a finite number")],
)  # fmt: skip
def test_a_metric_that_cannot_be_logged_names_the_reward(name, value, words):
    def reward(completions, log_metric, **columns):
        log_metric(name, value)
        return [0.0]

    with pytest.raises(UserError, match=f"reward 'judge' failed: .*{words}"):
        reward_matrix([("judge", reward)], ["x"], {})


def test_threads_share_the_extractor(lexicon):
    """Rewards on graphs run in several threads and read the same sentences."""
    load_external_plugins([ROOT / "plugin.py"])
    rewards = build_rewards(["external_kg_jac", "external_kg_f1", "external_findings", "external_consistency"])
    texts = [f"<think>There is a small left effusion {number}.</think><answer>yes</answer>" for number in range(40)]
    columns = {"solution": texts, "question": ["Is there an effusion?"] * 40}
    together = reward_matrix(rewards, texts[::-1], columns)
    alone = [reward_matrix([reward], texts[::-1], columns)[:, 0].tolist() for reward in rewards]
    assert together.T.tolist() == alone

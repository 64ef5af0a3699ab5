"""Calls of all rewards at once.

Coroutines share one event loop, which lives as long as the process, so a reward may keep a session open between calls.
All other rewards run in threads of their own. A single reward that is no coroutine and has no time limit is simply
called. While rewards are slow, a line in the log says which ones are waited for.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import inspect
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from swift.plugin.guards import named_errors, settings_kept
from swift.utils.distributed import is_master
from swift.utils.errors import UserError
from swift.utils.logger import get_logger

logger = get_logger()

SIGN_OF_LIFE = 10.0  # seconds between two lines about rewards that are waited for
Call = tuple[str, Callable[[], Any]]  # a reward's name, and its call with all arguments bound


def is_coroutine(reward: Callable) -> bool:
    """True for an ``async def`` function, and for an object with an ``async def __call__``."""
    return inspect.iscoroutinefunction(reward) or inspect.iscoroutinefunction(getattr(reward, "__call__", None))  # noqa: B004


def call_all(calls: Sequence[Call], timeout: float | None = None) -> list[Any]:
    """The results of all calls, in their order. They run at the same time.

    Raises:
        UserError: a reward raises, or takes more than ``timeout`` seconds. The message names it. Rewards that still run
            are not waited for.
    """
    with settings_kept("reward " + ", ".join(name for name, _ in calls)):
        if len(calls) == 1 and timeout is None and not is_coroutine(_function(calls[0])):
            ((name, call),) = calls
            with signs_of_life(lambda: [name]), named_errors(_failed(name)):
                return [_settled(call())]
        return _call_together(calls, timeout)


def _call_together(calls: Sequence[Call], timeout: float | None) -> list[Any]:
    futures = {name: _start(call, _function((name, call))) for name, call in calls}
    with signs_of_life(lambda: [name for name, future in futures.items() if not future.done()]):
        concurrent.futures.wait(futures.values(), timeout, concurrent.futures.FIRST_EXCEPTION)
    late = [name for name, future in futures.items() if not future.done()]
    try:
        for name, future in futures.items():
            if future.done():
                with named_errors(_failed(name)):
                    future.result()
        if late:
            raise UserError(
                f"reward {late[0]!r} took more than --reward_timeout {timeout:g} seconds; see what it waits for, or "
                "pass a larger limit"
            )
    finally:
        for name in late:
            futures[name].cancel()
    return [future.result() for future in futures.values()]


def _function(call: Call) -> Callable:
    """The reward itself, without its arguments."""
    return call[1].func if isinstance(call[1], functools.partial) else call[1]


def _failed(name: str) -> str:
    return f"reward {name!r} failed"


def _ended(error: BaseException) -> Exception:
    """An error in place of one that would end the thread or the event loop, and leave the rewards in it waiting."""
    return RuntimeError(f"{type(error).__name__} {error}".strip()).with_traceback(error.__traceback__)


def _start(call: Callable[[], Any], reward: Callable) -> concurrent.futures.Future:
    if is_coroutine(reward):
        return asyncio.run_coroutine_threadsafe(_contained(call()), _event_loop())
    future: concurrent.futures.Future = concurrent.futures.Future()
    future.set_running_or_notify_cancel()  # a thread cannot be cancelled any more
    settings = _torch_settings()

    def run() -> None:
        try:
            with settings():
                future.set_result(_settled(call()))
        except (KeyboardInterrupt, SystemExit) as error:
            future.set_exception(_ended(error))
        except BaseException as error:
            future.set_exception(error)

    # A daemon, so that a reward that hangs does not keep the process alive.
    threading.Thread(target=run, daemon=True).start()
    return future


async def _contained(coroutine: Any) -> Any:
    try:
        return await coroutine
    except (KeyboardInterrupt, SystemExit) as error:
        raise _ended(error) from error


def _settled(result: Any) -> Any:
    """``result``, or what it turns out to be if a plain function returned a coroutine."""
    if not inspect.iscoroutine(result):
        return result
    return asyncio.run_coroutine_threadsafe(_contained(result), _event_loop()).result()


@functools.cache
def _event_loop() -> asyncio.AbstractEventLoop:
    """The event loop of all coroutines, in a thread of its own."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    return loop


def _torch_settings() -> Callable:
    """A context in which another thread computes with torch as this one does: torch keeps its device, its number of
    threads and its gradient mode per thread. It does nothing if torch was not imported."""
    torch = sys.modules.get("torch")
    if torch is None:
        return _nothing
    threads, gradients = torch.get_num_threads(), torch.is_grad_enabled()
    device = torch.cuda.current_device() if torch.cuda.is_available() and torch.cuda.is_initialized() else None

    @contextmanager
    def settings() -> Iterator[None]:
        torch.set_num_threads(threads)
        if device is not None:
            torch.cuda.set_device(device)
        with torch.set_grad_enabled(gradients):
            yield

    return settings


@contextmanager
def _nothing() -> Iterator[None]:
    yield


@contextmanager
def signs_of_life(pending: Callable[[], list[str]], kind: str = "reward") -> Iterator[None]:
    """Within the block, log the ``pending`` rewards, or what else ``kind`` says, every `SIGN_OF_LIFE` seconds."""
    began, done = time.monotonic(), threading.Event()

    def watch() -> None:
        while not done.wait(SIGN_OF_LIFE):
            if names := ", ".join(pending()):
                # The log of other processes begins with warnings, and only one of them may be waiting.
                level = logging.INFO if is_master() else logging.WARNING
                logger.log(level, "waiting for %s %s since %.0f seconds", kind, names, time.monotonic() - began)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        done.set()

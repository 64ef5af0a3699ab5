"""Fixtures that many tests share, the flag --no-skips, and tests that need a GPU."""

from __future__ import annotations

import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.support.builders import write_world
from utils import get_knowledge_graph

# The models are so small that a second thread costs more than it brings.
torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --no-skips, which CI passes."""
    parser.addoption("--no-skips", action="store_true", help="end with status 1 if a test was skipped")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests that need a GPU if there is none. The summary counts them as deselected."""
    if not torch.cuda.is_available():
        left_out = [item for item in items if item.get_closest_marker("cuda")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Let a run fail in which tests were skipped, if --no-skips is given. The summary lists them with their reasons."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None:  # a worker of pytest-xdist, which reports to the process that started it
        return
    if session.config.getoption("--no-skips") and reporter.stats.get("skipped") and exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say why a run with --no-skips failed."""
    skipped = terminalreporter.stats.get("skipped")
    if config.getoption("--no-skips") and skipped:
        terminalreporter.write_line(f"error: {len(skipped)} skipped, which --no-skips does not allow", red=True)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny dataset and a tiny policy on disk (see builders.write_world)."""
    return write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def lexicon(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Select the lexicon extractor with its own word list, whatever the environment says."""
    monkeypatch.setenv("REXKG_EXTRACTOR", "lexicon")
    monkeypatch.delenv("REXKG_TERMS", raising=False)
    get_knowledge_graph._extractor.cache_clear()
    yield
    get_knowledge_graph._extractor.cache_clear()


@pytest.fixture
def unhooked_trainer() -> Iterator[type]:
    """GRPOTrainer; a hook that the test's plugin puts around its constructor is taken off afterwards."""
    from swift.trainers.rlhf_trainer.grpo_trainer import GRPOTrainer  # slow to import, and few tests need it

    construct = GRPOTrainer.__init__
    yield GRPOTrainer
    GRPOTrainer.__init__ = construct
    if "freezes_non_vision" in vars(GRPOTrainer):
        del GRPOTrainer.freezes_non_vision


@pytest.fixture
def small_disk() -> Iterator[Callable[[int], None]]:
    """A function that lets no file of this process grow beyond a number of bytes, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    action = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, action)

"""Fixtures that are built once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.support.builders import write_world
from utils import get_knowledge_graph

# The models are so small that a second thread costs more than it brings.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny dataset and a tiny policy on disk (see builders.write_world)."""
    return write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def lexicon(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The lexicon extractor as it ships, whatever the settings of the machine."""
    monkeypatch.setenv("REXKG_EXTRACTOR", "lexicon")
    monkeypatch.delenv("REXKG_TERMS", raising=False)
    get_knowledge_graph._extractor.cache_clear()
    yield
    get_knowledge_graph._extractor.cache_clear()

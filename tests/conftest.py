"""Fixtures that are built once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.builders import write_world

# The models are so small that a second thread costs more than it brings.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny dataset and a tiny policy on disk (see builders.write_world)."""
    return write_world(tmp_path_factory.mktemp("world"))

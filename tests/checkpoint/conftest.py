"""Fixtures that tests of other models share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.tiny_models import WRITERS


@pytest.fixture(scope="session", params=list(WRITERS))
def other_model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny model of each kind, named after the kind. Tests do not change it."""
    path = tmp_path_factory.mktemp("models") / request.param
    WRITERS[request.param](path)
    return path

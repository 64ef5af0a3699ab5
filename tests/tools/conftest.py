"""Fixtures that tests of the demo world share."""

from __future__ import annotations

import pytest

from tools.demo_world.dataset import World, WorldConfig, build_world


@pytest.fixture(scope="session")
def demo_world() -> World:
    """The default demo world without its pictures, which takes a few seconds."""
    return build_world(WorldConfig())

"""The number of graphs that torch compiles of one function."""

from __future__ import annotations

import torch

GRAPHS = 64  # most graphs that a process compiles of a function


def allow_graphs() -> None:
    """Let functions be compiled up to `GRAPHS` times. Each kind of layer, model and row takes a few graphs, more than
    the usual eight."""
    torch._dynamo.config.recompile_limit = max(GRAPHS, torch._dynamo.config.recompile_limit)


def recompile_limit_hit() -> type[Exception]:
    """The error of torch if a function that must be one graph would be compiled more often than allowed."""
    from torch._dynamo.exc import FailOnRecompileLimitHit  # slow to import, and most processes compile nothing

    return FailOnRecompileLimitHit

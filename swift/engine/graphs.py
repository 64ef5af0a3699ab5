"""Functions that torch compiles, and the limit on the number of their graphs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from swift.utils.logger import get_logger

logger = get_logger()

GRAPHS = 64  # most graphs that a process compiles of a function, where a few are usual; torch's own limit is eight


class WatchedGraphs:
    """Calls ``compiled``, a function that torch compiles as one graph (``fullgraph``).

    If it would be compiled more often than `GRAPHS` times, one line in the log says so, and ``instead`` is called.
    ``name`` and ``consequence`` are parts of that line.
    """

    def __init__(self, compiled: Callable[..., Any], instead: Callable[..., Any], name: str, consequence: str) -> None:
        torch._dynamo.config.recompile_limit = max(GRAPHS, torch._dynamo.config.recompile_limit)
        self.compiled, self.instead = compiled, instead
        self.line: str | None = f"{name} reached the limit of %d compilations; {consequence}"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The result of either function."""
        try:
            return self.compiled(*args, **kwargs)
        except _limit_error():
            if self.line is not None:
                logger.warning(self.line, torch._dynamo.config.recompile_limit)
                self.line = None
            return self.instead(*args, **kwargs)


def _limit_error() -> type[Exception]:
    from torch._dynamo.exc import FailOnRecompileLimitHit  # slow to import, and most processes compile nothing

    return FailOnRecompileLimitHit

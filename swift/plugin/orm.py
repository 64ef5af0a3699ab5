"""The reward contract and the registry that plugins fill."""

from __future__ import annotations

from collections.abc import Callable


class ORM:
    """An outcome reward. It scores completions, given the columns of their dataset records.

    ``__call__(completions, **columns)`` returns a list with one finite number per completion, or None for a completion
    to which the reward does not apply. Every column (``solution``, ``images``, ``idx`` ...) is a list aligned with
    ``completions``. A parameter without a default names a column that every record must have, such as ``solution`` in
    ``__call__(self, completions, solution, **columns)``. This is checked before training starts.

    ``__call__`` may be a coroutine (``async def``). Rewards of a step run at the same time, each in a thread or on an
    event loop. A parameter ``log_metric`` receives a function ``log_metric(name, value)``, whose means training logs.

    A reward may have a method ``metrics(completions, **columns)`` that returns further figures of the completions as
    ``{name: (sum, count)}``. Training logs the mean of each.

    It may also have a method ``lacking(rows)`` that says in words what it lacks in these records, given by their
    columns, and returns None if nothing. It is asked before training and by `tools.check_data`.
    """

    reads_reasoning = False  # True if the reward applies only to records whose solution has reasoning
    is_quick = False  # True if it may be tried on a few texts before training

    def __call__(self, completions: list[str], **columns: list) -> list[float | None]:
        raise NotImplementedError(f"{type(self).__name__} must define __call__(self, completions, **columns)")


orms: dict[str, Callable] = {}
"""Rewards by name: an ORM class, an ORM instance, or a function ``f(completions, **columns)``."""

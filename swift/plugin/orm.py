"""The reward contract and the registry that plugins fill."""

from __future__ import annotations

from collections.abc import Callable


class ORM:
    """An outcome reward: scores each completion, given the columns of its dataset row.

    ``__call__(completions, **columns)`` returns one finite number per completion, or None where the reward does not
    apply. Every column (``solution``, ``images``, ``idx`` ...) is a list aligned with ``completions``. A parameter
    without a default, such as ``solution`` in ``__call__(self, completions, solution, **columns)``, is a column that
    every row must have; it is checked before training starts.
    """

    def __call__(self, completions: list[str], **columns: list) -> list[float | None]:
        raise NotImplementedError(f"{type(self).__name__} must define __call__(self, completions, **columns)")


orms: dict[str, Callable] = {}
"""Reward name -> ORM class, ORM instance or plain function ``f(completions, **columns)``."""

"""Rewards from their names on the command line to a matrix of scores, every mistake reported with its remedy."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from swift.plugin.loader import describe_error
from swift.plugin.orm import orms
from swift.utils.errors import UserError


def build_rewards(names: Iterable[str], settings: Any = None, tokenizer: Any = None) -> list[tuple[str, Callable]]:
    """Construct the named rewards, in order.

    A class is instantiated once. As in ms-swift, a constructor parameter that carries the name of an attribute of
    ``settings`` (the training arguments) receives its value, and one called ``tokenizer`` receives the tokenizer.
    Instances and plain functions are used as they are.

    Raises:
        UserError: no names, a name twice, an unknown name, or a constructor that fails.
    """
    names = list(names)
    if not names:
        raise UserError("--reward_funcs is empty; name at least one of: " + _known_names())
    for position, name in enumerate(names):
        if name in names[:position]:
            raise UserError(f"--reward_funcs names {name!r} twice; use --reward_weights to weigh it more")
        if name not in orms:
            nearest = difflib.get_close_matches(name, orms, n=1)
            hint = f"did you mean {nearest[0]!r}? " if nearest else ""
            raise UserError(f"--reward_funcs: unknown reward {name!r}; {hint}known: {_known_names()}")
    return [(name, _construct(name, orms[name], settings, tokenizer)) for name in names]


def required_columns(rewards: Iterable[tuple[str, Callable]]) -> dict[str, str]:
    """``{column: reward name}`` for every dataset column that a reward cannot do without.

    These are the parameters without a default that follow ``completions`` in the reward's signature.
    """
    needed: dict[str, str] = {}
    for name, reward in rewards:
        parameters = list(inspect.signature(reward).parameters.values())
        for parameter in parameters[1:]:
            if parameter.default is parameter.empty and parameter.kind not in (
                parameter.VAR_KEYWORD,
                parameter.VAR_POSITIONAL,
            ):
                needed.setdefault(parameter.name, name)
    return needed


def reward_matrix(
    rewards: list[tuple[str, Callable]], completions: list[str], columns: Mapping[str, list]
) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Score N completions with R rewards: float32 [N, R], NaN where a reward returned None.

    Args:
        rewards: as ``build_rewards`` returns them.
        completions: N texts.
        columns: dataset columns, each a list of N values aligned with ``completions``.

    Raises:
        UserError: a reward raises, or does not return N finite numbers or Nones.
        ValueError: a column is not N long.
    """
    for column, values in columns.items():
        if len(values) != len(completions):
            raise ValueError(f"column {column!r} has {len(values)} values for {len(completions)} completions")
    scores = np.full((len(completions), len(rewards)), np.nan, dtype=np.float32)
    for index, (name, reward) in enumerate(rewards):
        try:
            returned = reward(completions, **columns)
        except Exception as error:
            raise UserError(f"reward {name!r} failed: {describe_error(error)}") from error
        scores[:, index] = _checked(name, returned, len(completions))
    return scores


def _construct(name: str, registered: Callable, settings: Any, tokenizer: Any) -> Callable:
    if inspect.isclass(registered):
        known = {
            parameter: getattr(settings, parameter)
            for parameter in inspect.signature(registered.__init__).parameters
            if parameter not in ("self", "args", "kwargs") and hasattr(settings, parameter)
        }
        if "tokenizer" in inspect.signature(registered.__init__).parameters:
            known["tokenizer"] = tokenizer
        try:
            registered = registered(**known)
        except Exception as error:
            raise UserError(f"reward {name!r} cannot be set up: {describe_error(error)}") from error
    if not callable(registered):
        raise UserError(f"reward {name!r} is a {type(registered).__name__}; register a class or a function")
    return registered


def _checked(name: str, returned: Any, count: int) -> list[float]:
    try:
        values = [np.nan if value is None else float(value) for value in returned]
    except (TypeError, ValueError) as error:
        raise UserError(
            f"reward {name!r} must return a list of {count} numbers (None where it does not apply): {error}"
        ) from error
    if len(values) != count:
        raise UserError(f"reward {name!r} returned {len(values)} values for {count} completions; return one for each")
    for position, (value, original) in enumerate(zip(values, returned, strict=True)):
        if original is not None and not np.isfinite(value):
            raise UserError(
                f"reward {name!r} returned {value} for completion {position}; return a finite number, or None"
                " where the reward does not apply"
            )
    return values


def _known_names() -> str:
    return ", ".join(sorted(orms)) or "none (load a plugin with --external_plugins plugin.py)"

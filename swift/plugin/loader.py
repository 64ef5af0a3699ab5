"""From ``--external_plugins`` and ``--reward_funcs`` to a matrix of scores, with every mistake named."""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from swift.plugin.orm import orms
from swift.utils.errors import UserError


def load_external_plugins(paths: Iterable[str | Path]) -> None:
    """Import each plugin file once; what it registers in ``orms`` becomes available.

    The plugin's folder is put at the end of ``sys.path`` so that it can import files beside it.

    Raises:
        UserError: a file is missing, is not Python, or raises while it is imported.
    """
    for path in paths:
        path = Path(path).expanduser().resolve()
        if not path.is_file():
            raise UserError(f"--external_plugins {path}: no such file; give the path of a Python file")
        if path.suffix != ".py":
            raise UserError(f"--external_plugins {path}: not a Python file; its name must end in .py")
        _import_file(path)


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
            raise UserError(f"reward {name!r} failed: {_describe(error)}") from error
        scores[:, index] = _checked(name, returned, len(completions))
    return scores


def _import_file(path: Path) -> None:
    # The hash keeps two plugins of the same name apart; the prefix keeps either from shadowing a real module.
    digest = hashlib.sha256(str(path).encode()).hexdigest()[:8]
    module_name = f"external_plugin_{path.stem}_{digest}"
    if module_name in sys.modules:
        return
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    spec = importlib.util.spec_from_file_location(module_name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[module_name]
        raise UserError(
            f"--external_plugins {path}: {_describe(error, path)}; mend the plugin and start again"
        ) from error


def _describe(error: Exception, path: Path | None = None) -> str:
    """``line N: ErrorType: message`` on one line; the line is the last one in ``path``, or where the error arose."""
    message = " ".join(str(error).split())
    if isinstance(error, SyntaxError):
        return f"line {error.lineno}: {type(error).__name__}: {error.msg}"
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if path is None or frame.filename == str(path)
    ]
    if not frames:
        return f"{type(error).__name__}: {message}"
    where = f"line {frames[-1].lineno}" if path else f"{frames[-1].filename} line {frames[-1].lineno}"
    return f"{where}: {type(error).__name__}: {message}"


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
            raise UserError(f"reward {name!r} cannot be set up: {_describe(error)}") from error
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

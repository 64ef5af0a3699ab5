"""Construction of the rewards that ``--reward_funcs`` names, and scoring of completions with them."""

from __future__ import annotations

import copy
import difflib
import inspect
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from swift.plugin.calling import call_all, is_coroutine, signs_of_life
from swift.plugin.guards import copied, named_errors, settings_kept
from swift.plugin.orm import orms
from swift.utils.errors import UserError
from utils.answers import reasoning_of

QUICK = ("external_math_acc", "external_code_reward", "external_countdown")  # may be tried as well
TRIED = 8  # records that rewards are tried on before training
TRAINER_STATE = "trainer_state"  # the one column that is an object, the same for all completions
LOG_METRIC = "log_metric"  # parameter of a reward that receives a function log_metric(name, value)
# Names in the log that a reward may not use for metrics of its own.
TAKEN = re.compile(
    r"loss|reward|reward_std|kl|entropy|epoch|step|grad_norm|learning_rate|truncated|masked_tokens|completion_length.*|"
    r".*_groups|(dpo|cispo)_.*|clip_ratio.*|(rewards|seconds|signs)/.*|(eval|train|test)_.*"
)
LogMetric = Callable[[str, float], None]
LARGEST_REWARD = 1e15  # sums and squares of a group stay finite in float32


def build_rewards(names: Iterable[str], settings: Any = None, tokenizer: Any = None) -> list[tuple[str, Callable]]:
    """Construct the rewards of these names, in order, as (name, reward) pairs.

    A class is instantiated once. As in ms-swift, a constructor parameter with the name of an attribute of ``settings``
    (the training arguments) receives the attribute's value, and a parameter called ``tokenizer`` receives the
    tokenizer. Instances and functions are used as they are.

    Raises:
        UserError: there are no names, a name is repeated or unknown, or a constructor fails.
    """
    names = list(names)
    if not names:
        raise UserError("--reward_funcs is empty; name at least one of: " + _known_names())
    for position, name in enumerate(names):
        if name in names[:position]:
            raise UserError(f"--reward_funcs names {name!r} twice; use --reward_weights to give it more weight")
        if name not in orms:
            nearest = difflib.get_close_matches(name, orms, n=1)
            hint = f"did you mean {nearest[0]!r}? " if nearest else ""
            raise UserError(f"--reward_funcs: unknown reward {name!r}; {hint}known: {_known_names()}")
    return [(name, _construct(name, orms[name], settings, tokenizer)) for name in names]


def required_columns(rewards: Iterable[tuple[str, Callable]]) -> dict[str, str]:
    """Dataset columns that a reward requires, each with the name of the first reward that does.

    They are the parameters without a default that follow ``completions`` in the reward's signature.
    """
    required: dict[str, str] = {}
    for name, reward in rewards:
        parameters = list(inspect.signature(reward).parameters.values())
        for parameter in parameters[1:]:
            if parameter.name == LOG_METRIC:
                continue
            if parameter.default is parameter.empty and parameter.kind not in (
                parameter.VAR_KEYWORD,
                parameter.VAR_POSITIONAL,
            ):
                required.setdefault(parameter.name, name)
    return required


def logs_metrics(reward: Callable) -> bool:
    """True if a reward asks for ``log_metric``, by a parameter of this name."""
    return LOG_METRIC in inspect.signature(reward).parameters


def reward_matrix(
    rewards: list[tuple[str, Callable]],
    completions: list[str],
    columns: Mapping[str, Any],
    *,
    timeout: float | None = None,
    log_metric: LogMetric | None = None,
) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Score N completions with R rewards, all at once: float32 [N, R], NaN for None.

    Args:
        rewards: R (name, reward) pairs, as ``build_rewards`` returns them.
        completions: N texts.
        columns: dataset columns, each a list of N values aligned with ``completions``, and the trainer's state.
        timeout: seconds that a reward may take.
        log_metric: receives the metrics that rewards log themselves, reward by reward.

    Raises:
        UserError: a reward raises, takes too long, logs a metric that cannot be logged, or returns anything other than
            N values, each a finite number or None.
        ValueError: a column does not hold N values.
    """
    for column, values in columns.items():
        if column != TRAINER_STATE and len(values) != len(completions):
            raise ValueError(f"column {column!r} has {len(values)} values for {len(completions)} completions")
    logged: dict[str, list[tuple[str, float]]] = {name: [] for name, _ in rewards}
    calls = [(name, _bound(name, reward, completions, columns, logged[name])) for name, reward in rewards]
    scores = np.full((len(completions), len(rewards)), np.nan, dtype=np.float32)
    for index, ((name, _), returned) in enumerate(zip(rewards, call_all(calls, timeout), strict=True)):
        scores[:, index] = _checked(name, returned, len(completions))
    for metric, value in (entry for entries in logged.values() for entry in entries):
        if log_metric is not None:
            log_metric(metric, value)
    return scores


def _bound(
    name: str, reward: Callable, completions: list[str], columns: Mapping[str, Any], logged: list[tuple[str, float]]
) -> partial:
    """The call of a reward, which notes in ``logged`` the metrics that it logs. It gets copies of all lists."""

    def log_metric(metric: str, value: float) -> None:
        if TAKEN.fullmatch(metric):
            raise ValueError(f"log_metric: {metric!r} is a name that the log has already; choose another one")
        if not math.isfinite(value):
            raise ValueError(f"log_metric: {metric!r} is {value}; log a finite number")
        logged.append((metric, float(value)))

    given = {LOG_METRIC: log_metric} if logs_metrics(reward) else {}
    return partial(reward, list(completions), **_own(columns), **given)


def _own(columns: Mapping[str, Any]) -> dict[str, Any]:
    """The columns for one reward, which may change them. Of the trainer's state, the log stays shared."""
    return {name: copy.copy(value) if name == TRAINER_STATE else copied(value) for name, value in columns.items()}


def reward_notes(rewards: Iterable[tuple[str, Callable]], columns: Sequence[Mapping[str, Any]]) -> list[str]:
    """Sentences about rewards that will say little about these records, given by their ``columns``."""
    solutions = [row.get("solution") for row in columns]
    bare = sum(reasoning_of(solution) is None for solution in solutions)
    notes = []
    for name, reward in rewards:
        if getattr(reward, "reads_reasoning", False) and bare:
            use = "it is never given; leave it out, or add" if bare == len(solutions) else "they go without it; add"
            notes.append(f"reward {name} compares reasoning, and {bare} of {len(solutions)} solutions have none: {use} "
                         "explanations")  # fmt: skip
        elif lack := lack_of(reward, columns):
            notes.append(f"reward {name}: {lack}")
        elif (name in QUICK or getattr(reward, "is_quick", False)) and (
            value := _constant(reward, columns[:TRIED])
        ) is not None:
            notes.append(f"reward {name} is {value:g} for right, wrong and empty answers alike to the first "
                         f"{min(TRIED, len(columns))} questions, so it may be constant; see what it reads")  # fmt: skip
    return notes


def lack_of(reward: Callable, columns: Sequence[Mapping[str, Any]]) -> str | None:
    """Words of the reward about what it lacks in records with these ``columns``, by its method ``lacking``."""
    lacking = getattr(reward, "lacking", None)
    if lacking is None:
        return None
    with settings_kept("a reward"), named_errors(f"reward {type(reward).__name__} failed in lacking"):
        return lacking([copied(dict(row)) for row in columns])


def _constant(reward: Callable, columns: Sequence[Mapping[str, Any]]) -> float | None:
    """The value of the reward for everything tried on these records; None if there are several, or none."""
    if is_coroutine(reward) or logs_metrics(reward):
        return None
    seen: set[float] = set()
    answers = [row.get("solution") or "" for row in columns]
    for turn in range(len(columns)):
        tried = [*answers[turn:], *answers[:turn]] if turn < len(columns) - 1 else [""] * len(columns)
        names = set().union(*columns)
        given = {name: [row.get(name) for row in columns] for name in names} | {"completion_tokens": [1] * len(columns)}
        try:
            with settings_kept("a reward"), named_errors("a trial failed"):
                seen |= {float(value) for value in reward(tried, **copied(given)) if value is not None}
        except UserError:
            return None
        if len(seen) > 1:
            return None
    return seen.pop() if seen else None


def reward_metrics(
    rewards: Iterable[tuple[str, Callable]],
    completions: list[str],
    columns: Mapping[str, list],
    timeout: float | None = None,
) -> dict[str, tuple[float, float]]:
    """Further figures of N completions, by name, each as (sum, count) of a mean.

    They come from the rewards that have a method ``metrics(completions, **columns)``. If two rewards give a figure of
    one name, the first counts.

    Raises:
        UserError: a reward's method raises, takes more than ``timeout`` seconds or returns anything else.
    """
    figures: dict[str, tuple[float, float]] = {}
    for name, reward in rewards:
        if hasattr(reward, "metrics"):
            call = partial(reward.metrics, list(completions), **_own(columns))
            (returned,) = call_all([(f"{name}.metrics", call)], timeout)
            with named_errors(f"reward '{name}.metrics' failed"):
                pairs = {figure: (float(total), float(count)) for figure, (total, count) in returned.items()}
            if wrong := [figure for figure, pair in pairs.items() if not all(map(math.isfinite, pair))]:
                raise UserError(
                    f"reward '{name}.metrics' gave the figure {wrong[0]!r} as {pairs[wrong[0]]}; give finite numbers"
                )
            figures = pairs | figures
    return figures


def _construct(name: str, registered: Callable, settings: Any, tokenizer: Any) -> Callable:
    if inspect.isclass(registered):
        parameters = inspect.signature(registered.__init__).parameters
        arguments = {
            name: getattr(settings, name)
            for name in parameters
            if name not in ("self", "args", "kwargs") and hasattr(settings, name)
        }
        if "tokenizer" in parameters:
            arguments["tokenizer"] = tokenizer
        clear = (ValueError, ImportError)  # with these the reward says what it needs
        kept, failed = settings_kept(f"reward {name}"), f"reward {name!r} cannot be set up"
        with kept, signs_of_life(lambda: [name]), named_errors(failed, clear):
            registered = registered(**arguments)
    if not callable(registered):
        raise UserError(f"reward {name!r} is a {type(registered).__name__}; register a class or a function")
    return registered


def _checked(name: str, returned: Any, count: int) -> list[float]:
    """The ``count`` values that a reward returned, NaN for None."""
    returned = returned.tolist() if hasattr(returned, "tolist") else returned  # an array, a tensor or a series
    if not isinstance(returned, (list, tuple)):
        raise UserError(
            f"reward {name!r} returned a {type(returned).__name__}; return a list of {count} numbers, with None where "
            "the reward does not apply"
        )
    if len(returned) != count:
        raise UserError(f"reward {name!r} returned {len(returned)} values for {count} completions; return one each")
    return [_number(value, f"reward {name!r} returned", position) for position, value in enumerate(returned)]


def _number(value: Any, beginning: str, position: int) -> float:
    """One value of a reward, NaN for None."""
    if value is None:
        return math.nan
    try:
        number = float(value.item() if hasattr(value, "item") else value)
        words = str(number)
    except OverflowError:
        number, words = math.inf, "a number too large for float"
    except (TypeError, ValueError, RuntimeError):
        number, words = math.nan, f"a {type(value).__name__}"
    if isinstance(value, (str, bytes, bytearray)) or not abs(number) <= LARGEST_REWARD:
        words = f"a {type(value).__name__}" if isinstance(value, (str, bytes, bytearray)) else words
        raise UserError(
            f"{beginning} {words} for completion {position}; return a finite number up to {LARGEST_REWARD:.0e}, or "
            "None if the reward does not apply"
        )
    return number


def _known_names() -> str:
    return ", ".join(sorted(orms)) or "none (load a plugin with --external_plugins plugin.py)"

"""Shapes of result files, on which every reader may rely. The file may be by a stranger."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from utils.metrics import STORED_SCORES

LARGEST = 2**63  # of a whole number
_INTERVAL = ("mean", "lo", "hi")
_BIN = ("low", "high", "count", "confidence", "accuracy")


def _is_number(value: Any) -> bool:
    return isinstance(value, float) or (isinstance(value, int) and abs(value) < LARGEST)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _all(kind: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(kind, value))


def _is_alternative(value: Any) -> bool:
    return isinstance(value, dict) and _is_text(value.get("token")) and _is_number(value.get("logprob"))


def _is_sample(value: Any) -> bool:
    return isinstance(value, dict) and _is_text(value.get("generated_text", ""))


def _has_numbers(value: Any, names: tuple[str, ...]) -> bool:
    return isinstance(value, dict) and all(_is_number(value.get(name)) for name in names)


def _is_calibration(value: Any) -> bool:
    intervals = [value.get(name) for name in ("ece", "auroc", "brier")] if isinstance(value, dict) else [0]
    bins = value.get("bins", []) if isinstance(value, dict) else []
    return (
        all(interval is None or _has_numbers(interval, _INTERVAL) for interval in intervals)
        and isinstance(bins, list)
        and all(_has_numbers(entry, _BIN) for entry in bins)
    )


_ROW: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "question": ("a text", _is_text),
    "generated_text": ("a text", _is_text),
    "num_tokens": ("a number", _is_number),
    "explanation": ("a text", _is_text),
    "samples": ("a list of answers", _all(_is_sample)),
    "generated_tokens": ("a list of texts", _all(_is_text)),
    "token_logprobs": ("a list of numbers", _all(_is_number)),
    "token_entropies": ("a list of numbers", _all(_is_number)),
    "token_ranks": ("a list of numbers", _all(_is_number)),
    "token_alternatives": ("lists of tokens with 'logprob'", _all(_all(_is_alternative))),
    "image_paths": ("a list", lambda value: isinstance(value, list)),
}
_FACTS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "settings": ("an object", lambda value: isinstance(value, dict)),
    "skipped": ("a list of objects", _all(lambda value: isinstance(value, dict))),
    "num_skipped": ("a number", _is_number),
    "calibration": ("the one that evaluate.py writes", _is_calibration),
}
_NEVER_NULL = ("question", "generated_text", "num_tokens")


def row_problem(row: Mapping[str, Any]) -> str | None:
    """The first field of a result that is of another type than its readers expect, in words. None if there is none."""
    problem = next(_problems(row, _ROW), None)
    if problem is None and row.get("token_logprobs") and STORED_SCORES not in row:
        tokens = row.get("generated_tokens")
        if not tokens or len(tokens) != len(row["token_logprobs"]):
            return "fields 'generated_tokens' and 'token_logprobs' must be lists of one length"
    if problem is None and "generated_text" in row:
        without = next((n for n, sample in enumerate(row.get("samples") or ()) if "generated_text" not in sample), None)
        return None if without is None else f"sample {without} has no field 'generated_text'"
    return problem


def facts_problem(document: Mapping[str, Any]) -> str | None:
    """The first fact beside the results that is of another type than its readers expect. None if there is none."""
    problem = next(_problems(document, _FACTS), None)
    settings = document.get("settings")
    weights = settings.get("weights") if isinstance(settings, dict) else None
    if problem is None and weights is not None and not _all(_is_text)(weights):
        return "field 'weights' of the settings must be a list of texts"
    return problem


def _problems(value: Mapping[str, Any], kinds: Mapping[str, tuple[str, Callable[[Any], bool]]]) -> Iterator[str]:
    for name, (words, is_right) in kinds.items():
        if name in value and not (value[name] is None and name not in _NEVER_NULL) and not is_right(value[name]):
            yield f"field '{name}' must be {words}"


def without_infinities(value: Any) -> Any:
    """A JSON value with null for numbers that are not finite, which JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: without_infinities(entry) for name, entry in value.items()}
    return [without_infinities(entry) for entry in value] if isinstance(value, list) else value

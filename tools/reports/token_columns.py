"""Tokens with their probabilities for pages: columns of whole numbers, short enough for thousands of texts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

UNSURE = math.log(0.9)  # a token likelier than this is shown without its alternatives


def token_columns(
    text: str,
    tokens: Sequence[str] | None,
    logps: Sequence[float] | None,
    entropies: Sequence[float] | None = None,
    ranks: Sequence[int] | None = None,
    alternatives: Sequence[Sequence[Mapping[str, Any]]] | None = None,
    dependencies: Sequence[float] | None = None,
) -> dict[str, Any] | None:
    """Columns as long as ``tokens``. None unless there are tokens with as many log-probabilities (natural logarithm).

    ``nats``       minus the log-probability in hundredths of nats; null if it is not finite
    ``lengths``    lengths of the tokens' texts in UTF-16 units, as scripts count. If the texts do not join to ``text``,
                   ``texts`` holds them instead
    ``entropies``  in hundredths of nats
    ``ranks``      {position: rank} for ranks other than 1
    ``others``     {position: [[text, hundredths], ...]} from the ``alternatives`` {"token", "logprob"} to tokens that
                   were not nearly certain
    ``looks``      visual dependencies in thousandths of nats; null if not finite
    """
    if not tokens or not logps or len(tokens) != len(logps):
        return None
    texts = [str(token) for token in tokens]
    columns: dict[str, Any] = {"nats": [_hundredths(logp, -1) for logp in logps]}
    if "".join(texts) == text:
        columns["lengths"] = [len(token.encode("utf-16-le", "surrogatepass")) // 2 for token in texts]
    else:
        columns["texts"] = texts
    if entropies and len(entropies) == len(tokens):
        columns["entropies"] = [_hundredths(entropy) for entropy in entropies]
    if ranks and len(ranks) == len(tokens):
        columns["ranks"] = {position: rank for position, rank in enumerate(ranks) if rank != 1}
    if alternatives and len(alternatives) == len(tokens):
        columns["others"] = {
            position: [[str(other["token"]), _hundredths(other["logprob"], -1)] for other in alternatives[position]]
            for position, logp in enumerate(logps)
            if isinstance(logp, int | float) and logp < UNSURE
        }
    if dependencies and len(dependencies) == len(tokens):
        columns["looks"] = [_hundredths(dependency, 10) for dependency in dependencies]
    return columns


def _hundredths(value: Any, factor: int = 1) -> int | None:
    return round(100 * factor * value) if isinstance(value, int | float) and math.isfinite(value) else None

"""Metrics of the package radeval (RadEval, EMNLP 2025 demo) as scores of texts. The package is optional."""

from __future__ import annotations

from collections.abc import Callable

DISTANCES = frozenset({"radcliq", "radgraph_radcliq"})  # the smaller, the better: their sign is changed
_COLUMN = "reference"


def load_radeval_metric(spec: str) -> Callable[[list[str], list[str]], list[float | None]]:
    """The metric that ``spec`` names, as a function of texts and their references.

    Args:
        spec: a metric of radeval, such as "bleu", or a metric and one of its outputs, such as
            "radgraph:radgraph_partial".

    Raises:
        ImportError: radeval is not installed.
        ValueError: radeval does not have the metric, or the metric's weights cannot be loaded.
    """
    try:
        from radeval.rewards import make_reward_fn
    except ImportError as error:
        raise ImportError(f"external_radeval needs radeval ({error}); run: pip install radeval") from error
    name, _, key = spec.partition(":")
    invert = {"score_transform": lambda value: -value} if name in DISTANCES else {}
    try:
        score = make_reward_fn(name, reference_column=_COLUMN, key=key or None, **invert)
    except Exception as error:  # a metric loads its weights from the network and raises what its libraries raise
        reason = " ".join(str(error).split())
        raise ValueError(
            f"RADEVAL_METRIC={spec}: radeval cannot load it ({reason:.200}); download its weights where there is a "
            "network, or name a metric without weights such as bleu"
        ) from error
    return lambda texts, references: score(texts, **{_COLUMN: references})

"""Scores of several samples of one question: pass@k and the majority vote."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from utils.answers import parse_answers


def pass_at_k(samples: int, right: int, k: int) -> float:
    """The chance that at least one of ``k`` samples is right, estimated without bias from ``right`` of ``samples``.

    It is 1 - C(n - c, k) / C(n, k) with n = ``samples`` and c = ``right``.
    Chen et al. 2021, "Evaluating Large Language Models Trained on Code" (arXiv 2107.03374), equation 1.
    Raises ValueError if k is outside 1..n or c outside 0..n.
    """
    if not 1 <= k <= samples or not 0 <= right <= samples:
        raise ValueError(f"pass@{k} of {right} right among {samples} samples does not exist; k and right lie within n")
    return 1 - math.comb(samples - right, k) / math.comb(samples, k)


def pass_sizes(samples: int) -> list[int]:
    """The k that are reported for n samples: powers of two up to n, and n."""
    return sorted({*(2**power for power in range(samples.bit_length()) if 2**power <= samples), samples})


def majority_answers(texts: Sequence[str]) -> frozenset[str]:
    """The set of answers (``utils.answers``) that most of the texts give. In a tie, the set given first wins."""
    counts = Counter(parse_answers(text) for text in texts)
    return max(counts, key=counts.__getitem__)  # a Counter keeps insertion order, and max takes the first of equals

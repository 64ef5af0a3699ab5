"""Scores of the tokens of a text: the policy's probability for each, its rank, and the most likely alternatives."""

from __future__ import annotations

from dataclasses import dataclass

from swift.engine.batch import Completions
from swift.engine.logprobs import LogProbs
from swift.llm.template.protocol import Template

DECIMALS = 7  # significant digits of stored numbers; float32 has no more


@dataclass(frozen=True)
class TokenScores:
    """Scores of one text, with one entry per token including the end token. Probabilities are the policy's own, over
    the whole vocabulary at temperature 1."""

    tokens: list[str]  # they join to the text; the end token is ""
    logprobs: list[float]  # natural logarithm
    entropies: list[float]  # nats
    ranks: list[int]  # 1 for the most likely token
    alternatives: list[list[tuple[str, float]]]  # the most likely tokens with their log-probabilities

    def __post_init__(self) -> None:
        lengths = {len(self.tokens), len(self.logprobs), len(self.entropies), len(self.ranks), len(self.alternatives)}
        if len(lengths) != 1:
            raise ValueError(f"every token needs each number, their counts are {sorted(lengths)}")


def token_scores(template: Template, completions: Completions, scores: LogProbs) -> list[TokenScores]:
    """The scores of each completion. ``scores`` must hold entropy and choices."""
    choices = zip(
        scores.choices.ranks.tolist(), scores.choices.top_ids.tolist(), scores.choices.top_logps.tolist(), strict=True
    )
    names: dict[int, str] = {}

    def name(token: int) -> str:
        """Text of an alternative. A control token shows its name, a part of a character the replacement sign."""
        if token not in names:
            names[token] = template.tokenizer.decode([token], skip_special_tokens=False)
        return names[token]

    scored = []
    rows = zip(completions.token_lists(), scores.logps.tolist(), scores.entropy.tolist(), strict=True)
    for ids, logps, entropies in rows:
        chosen = [next(choices) for _ in ids]
        scored.append(
            TokenScores(
                tokens=template.decode_tokens(ids),
                logprobs=[_short(value) for value in logps[: len(ids)]],
                entropies=[_short(value) for value in entropies[: len(ids)]],
                ranks=[rank for rank, _, _ in chosen],
                alternatives=[
                    [(name(token), _short(value)) for token, value in zip(tokens, values, strict=True)]
                    for _, tokens, values in chosen
                ],
            )
        )
    return scored


def _short(value: float) -> float:
    return float(f"{value:.{DECIMALS}g}")

"""A check that the tokens of a rollout can be samples of the policy that is scored.

A model that samples without its images, or from other weights, trains to the end on groups that it would never say.
Where p is the distribution that a token was drawn from, log p of the token has the mean -H(p), whatever came before. So
the sum of log p + H(p) over a rollout is a martingale, and its mean per token is 0 within a few standard errors.
"""

from __future__ import annotations

from torch import Tensor

from swift.engine.rollout.choosing import Sampling
from swift.utils.errors import UserError

FEWEST = 32  # tokens with which the mean is judged
FARTHEST = 0.5  # nats per token; rounding in half precision stays far below it
ERRORS = 8.0  # standard errors


def samples_whole_distribution(sampling: Sampling) -> bool:
    """True if tokens are drawn from the distribution that is scored."""
    plain = sampling.top_p == 1 and sampling.repetition_penalty == 1 and sampling.stop_words is None
    return plain and not sampling.top_k and sampling.temperature > 0


def check_sampled(logps: Tensor, entropies: Tensor, mask: Tensor) -> None:
    """Check the tokens at ``mask`` (bool [N, C]) by their log-probabilities and the entropies of their distributions
    (nats, [N, C]).

    Raises UserError if they cannot have been drawn from these distributions.
    """
    surplus = (logps + entropies)[mask].double()
    if len(surplus) < FEWEST:
        return
    mean, error = float(surplus.mean()), float(surplus.std()) / len(surplus) ** 0.5
    if abs(mean) > max(FARTHEST, ERRORS * error):
        raise UserError(
            f"the sampled tokens are not what the policy would say: their log-probability is {mean:+.2f} nats from "
            f"what its distributions let expect ({len(surplus)} tokens); report this with the log, since nothing can "
            "be learned from such a run"
        )

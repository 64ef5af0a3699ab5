"""Attention to a part of the keys, with the log-sum-exp that joins it to attention to other parts."""

from __future__ import annotations

import torch
from torch import Tensor

MASKED = (
    -3e4
)  # added to scores of keys that are not seen; finite, so that a part without any seen key joins with weight 0


def attend_part(
    query: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """Results [N, heads, Q, size] and float32 log-sum-exp of the scores [N, heads, Q].

    Args:
        query: [N, heads, Q, size].
        keys: [N, heads, K, size], and ``values`` likewise.
        bias: added to the scores, [N or 1, 1, 1, K], or None.
        scale: factor of the scores.
    """
    if query.device.type == "cpu":
        shape = (query.shape[0], query.shape[1], query.shape[2], keys.shape[2])
        mask = None if bias is None else bias.expand(shape)
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, keys, values, 0.0, False, attn_mask=mask, scale=scale
        )
    return attend_by_products(query, keys, values, bias, scale)


def attend_by_products(
    query: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """The same as two matrix products, for every device. Scores are rounded to the type of the query, as in eager
    attention of transformers, and summed in float32."""
    scores = torch.matmul(query, keys.transpose(-1, -2)).float() * scale
    if bias is not None:
        scores = scores + bias
    logsum = scores.logsumexp(dim=-1)
    weights = (scores - logsum[..., None]).exp().to(values.dtype)
    return torch.matmul(weights, values), logsum


def join_parts(first: Tensor, first_logsum: Tensor, second: Tensor, second_logsum: Tensor) -> Tensor:
    """Attention to both parts in float32, from each one's result [..., size] and log-sum-exp [...].

    With sums of exponentials a and b, the parts have weights a / (a + b) = sigmoid(log a - log b) and b / (a + b).
    """
    weight = torch.sigmoid(first_logsum - second_logsum)[..., None]
    return torch.lerp(second.float(), first.float(), weight)

"""FlexAttention over packed rows: a kernel that skips the blocks of keys that no query of a block sees.

Which query sees which key is computed inside the kernel from the segments of a row, so no mask of all pairs is held.
On CUDA the kernel is compiled, once for all lengths of rows. Elsewhere it runs uncompiled and holds all scores, which
is of use in tests only.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from swift.engine.attention.choice import FLEX, refuse_unknown
from swift.engine.attention.views import LayerView
from swift.engine.graphs import WatchedGraphs
from swift.engine.packing import PADDING, PROMPT

SPARSE_BLOCK = 128  # queries, and keys, of a block that is computed or skipped as a whole
COMPILED = {"dynamic": True, "fullgraph": True}  # rows of all lengths share a graph; a break in it is an error
QUERIES_AT_ONCE = 8 * SPARSE_BLOCK  # of which all pairs with keys are looked at while a block mask is made

Rule = Callable[[Tensor, Tensor | None, Tensor, Tensor], Tensor]


def sight_rule(view: LayerView) -> Rule:
    """The view as a function of the numbers of row, head, query and key, which may be tensors of any shape. It is True
    if the query sees the key."""
    rows, window, image_of = view.rows, view.window, view.image_of
    keys_of, order, first = rows.segments.int(), rows.order.int(), rows.first_query
    queries_of, own_order = (values[:, first:].contiguous() for values in (keys_of, order))
    columns = torch.arange(first, first + rows.queries, device=order.device)
    own_image = None if image_of is None else image_of[:, first:].contiguous()

    def sees(row: Tensor, _head: Tensor | None, query: Tensor, key: Tensor) -> Tensor:
        own, other, column = queries_of[row, query], keys_of[row, key], columns[query]
        seen = ((own == other) | (other == PROMPT)) & (own != PADDING) & (key <= column)
        if image_of is not None:
            seen = seen | ((own_image[row, query] == image_of[row, key]) & (own_image[row, query] > 0))
        if window is not None:
            seen = seen & (order[row, key] > own_order[row, query] - window)
        return seen | (key == column)

    return sees


def block_mask(view: LayerView) -> BlockMask:
    """The view as FlexAttention takes it: blocks that are seen whole, blocks that are seen in part, and the rule that
    decides within these."""
    rule, queries, segments = sight_rule(view), view.rows.queries, view.rows.segments
    count, length = segments.shape
    every, some = [], []
    for start in range(0, queries, QUERIES_AT_ONCE):
        seen = pairs(rule, count, range(start, min(start + QUERIES_AT_ONCE, queries)), length, segments.device)
        seen = nn.functional.pad(seen, (0, -length % SPARSE_BLOCK, 0, -seen.shape[1] % SPARSE_BLOCK))
        blocks = seen.unflatten(2, (-1, SPARSE_BLOCK)).unflatten(1, (-1, SPARSE_BLOCK))
        every.append(blocks.all(dim=4).all(dim=2))
        some.append(blocks.any(dim=4).any(dim=2))
    whole, part = torch.cat(every, dim=1), torch.cat(some, dim=1)
    return BlockMask.from_kv_blocks(
        *_listed(part & ~whole),
        *_listed(whole),
        BLOCK_SIZE=SPARSE_BLOCK,
        mask_mod=rule,
        seq_lengths=(queries, length),
    )


def pairs(rule: Rule, rows: int, queries: range, keys: int, device: torch.device) -> Tensor:
    """The rule for ``queries`` and all ``keys`` keys, bool [rows, queries, keys]."""
    row = torch.arange(rows, device=device)[:, None, None]
    query = torch.arange(queries.start, queries.stop, device=device)[None, :, None]
    return rule(row, None, query, torch.arange(keys, device=device)[None, None, :])


def _listed(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Blocks that are True, bool [rows, query blocks, key blocks], as their counts and indexes for all heads alike. The
    indexes of the others follow."""
    indexes = blocks.int().argsort(dim=-1, descending=True, stable=True)
    return blocks.sum(dim=-1, dtype=torch.int32)[:, None], indexes.int()[:, None]


def attend_flex(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: BlockMask | Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **others: object,
) -> tuple[Tensor, None]:
    """Attention of [rows, query heads, Q, head size] to [rows, heads, L, head size] under a `block_mask`, with the
    signature that transformers asks for. Returns [rows, Q, query heads, head size]. Under any other mask it is SDPA."""
    if not isinstance(attention_mask, BlockMask):
        others |= {"dropout": dropout, "scaling": scaling}
        return sdpa_attention_forward(module, query, key, value, attention_mask, **others)
    refuse_unknown(others, dropout)
    settings = {"block_mask": attention_mask, "scale": scaling, "enable_gqa": query.shape[1] != key.shape[1]}
    return _kernel(query.device.type)(query, key, value, **settings).transpose(1, 2).contiguous(), None


@cache
def _kernel(device_type: str) -> Callable[..., Tensor]:
    kernel = torch.compile(flex_attention, **COMPILED) if device_type == "cuda" else flex_attention
    consequence = "rows of other shapes take SDPA with a dense mask, which is slower; --attn_impl sdpa does so at once"
    return WatchedGraphs(kernel, attend_densely, "FlexAttention", consequence)


def attend_densely(
    query: Tensor, key: Tensor, value: Tensor, *, block_mask: BlockMask, scale: float | None, enable_gqa: bool
) -> Tensor:
    """The same as `flex_attention`, by SDPA with a mask of all pairs."""
    rows, heads, queries, _ = query.shape
    seen = pairs(block_mask.mask_mod, rows, range(queries), key.shape[2], query.device)[:, None]
    if enable_gqa:  # on a GPU, SDPA has no fast kernel for shared heads with a mask
        key, value = (part.repeat_interleave(heads // part.shape[1], dim=1) for part in (key, value))
    return scaled_dot_product_attention(query, key, value, attn_mask=seen, scale=scale)


AttentionInterface.register(FLEX, attend_flex)
AttentionMaskInterface.register(FLEX, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])

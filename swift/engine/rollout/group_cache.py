"""Keys and values of a rollout: those of each prompt once, read by its whole group, and those of the completions.

transformers repeats a prompt's keys and values for each of its G completions, and copies them all to add one token.
Here a layer holds two parts. The prompts' part [B, heads, P, head size] is what the prefill left, and the queries of a
group attend to it as one matrix product. The completions' own part [M, heads, C, head size] is memory that is taken in
blocks of tokens and written in place. The results of both parts are joined by their log-sum-exp, which gives the
softmax over all keys.

The model needs no change. In the decoder layers, the cache's ``update`` returns the whole layer in place of keys and
values, and an attention function that is registered with transformers under the name ``grouped_decoding`` takes it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, Cache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from swift.engine.attention.choice import attention_named, configs_of, refuse_unknown
from swift.engine.model_inputs import FULL, SLIDING, decoder_layers
from swift.engine.rollout.part_attention import MASKED, attend_part, join_parts

NAME = "grouped_decoding"
BLOCK = 64  # tokens of completions for which memory is taken at once
PROMPT_BLOCK = 128  # fixed shapes: prompts are padded to multiples of this


@dataclass
class Sight:
    """The keys that the queries of one step see in all layers with the same window."""

    window: int | None  # tokens that a token sees, itself included; None for all
    columns: int  # columns of the prompts' part
    prompt_bias: Tensor | None = None  # [B, 1, 1, columns], added to the scores; None if every key is seen
    own_bias: Tensor | None = None  # [1, 1, 1, C], with fixed shapes only
    first: int = 0  # own columns first..last are seen
    last: int = 0


@dataclass
class GroupLayer:
    """Keys and values of one layer."""

    cache: GroupCache
    sight: Sight
    prompt_keys: Tensor  # [B, heads, columns, head size]
    prompt_values: Tensor
    own_keys: Tensor  # [M, heads, C, head size]
    own_values: Tensor

    def write(self, keys: Tensor, values: Tensor) -> None:
        """Store the keys and values [M, heads, 1, head size] of the step's tokens."""
        if self.cache.fixed:
            self.own_keys.index_copy_(2, self.cache.column, keys)
            self.own_values.index_copy_(2, self.cache.column, values)
        else:
            self.own_keys[:, :, self.sight.last] = keys[:, :, 0]
            self.own_values[:, :, self.sight.last] = values[:, :, 0]


class GroupCache:
    """The cache of M open completions of B prompts, R places per prompt.

    ``fixed`` keeps shapes from step to step, so that a step can be compiled: attention then reads all own columns that
    there is memory for, and those not yet written are masked.
    """

    is_compileable = False

    def __init__(
        self, prefilled: Cache, order: Tensor, mask: Tensor, group_size: int, new_tokens: int, *, fixed: bool
    ) -> None:
        """Take over the cache that a forward pass over whole prompts left.

        ``order`` and ``mask`` [B, P] are those of the prompts, and ``new_tokens`` is the most tokens of a completion.
        Raises ValueError if a layer holds anything but keys and values of all tokens or of a sliding window.
        """
        self.fixed = fixed
        self.block = BLOCK if fixed else min(BLOCK, new_tokens)
        self.order, self.mask = order, mask
        self.lengths = mask.sum(dim=1)
        self.layers: list[GroupLayer] = []
        self.version = 0  # counts changes of memory
        self.step = 0
        self.column = torch.zeros(1, dtype=torch.long, device=mask.device)  # the step, as a tensor
        self._sights: dict[tuple[int | None, int], Sight] = {}
        rows = torch.arange(len(mask) * group_size, device=mask.device)
        self._place(rows.view(len(mask), group_size).clone(), rows)
        for layer in itertools.takewhile(_is_filled, prefilled.layers):  # a probe runs the first layers alone
            self._adopt(layer, len(rows))

    def _adopt(self, layer: DynamicLayer, rows: int) -> None:
        if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer):
            raise ValueError(f"{type(layer).__name__} holds more than keys and values")
        keys, values = layer.keys, layer.values
        layer.keys = layer.values = None
        if self.fixed:
            missing = -keys.shape[2] % PROMPT_BLOCK
            keys, values = (nn.functional.pad(part, (0, 0, missing, 0)) for part in (keys, values))
        columns = keys.shape[2]
        window = layer.sliding_window if isinstance(layer, DynamicSlidingWindowLayer) else None
        sight = self._sights.setdefault((window, columns), Sight(window, columns))
        own = [part.new_zeros(rows, part.shape[1], self.block, part.shape[3]) for part in (keys, values)]
        self.layers.append(GroupLayer(self, sight, keys.contiguous(), values.contiguous(), *own))

    def _place(self, table: Tensor, places: Tensor) -> None:
        """Say which row each place of a group holds, ``table`` [B, R], and which place each row has, ``places`` [M]."""
        self.table, self.places = table, places
        self.full = not self.fixed and table.numel() == len(places)  # rows and places are the same

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens before the step's. Models ask for it, but use the positions that they are given."""
        return self.order.shape[1] + self.step

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *_args: object) -> tuple[GroupLayer, GroupLayer]:
        """Store the step's keys and values, and return the layer in place of both."""
        layer = self.layers[layer_idx]
        layer.write(keys, values)
        return layer, layer

    def begin_step(self, step: int) -> None:
        """Make room for the token number ``step`` of the completions, from 0, and see which keys its queries see."""
        self.step = step
        self.column.fill_(step)
        if step >= self.layers[0].own_keys.shape[2]:
            self._grow()
        for sight in self._sights.values():
            self._look(sight)

    def _look(self, sight: Sight) -> None:
        step, capacity = self.step, self.layers[0].own_keys.shape[2]
        sight.last = step
        sight.first = 0 if sight.window is None else max(0, step - sight.window + 1)
        if self.fixed:
            columns = torch.arange(capacity, device=self.mask.device)
            seen = (columns >= sight.first) & (columns <= step)
            sight.own_bias = _written(sight.own_bias, self._bias(seen[None]))
        if sight.window is None and sight.prompt_bias is not None:
            return
        seen = self.mask[:, -sight.columns :]
        if sight.window is not None:
            seen = seen & (self.order[:, -sight.columns :] > (self.lengths + step - sight.window)[:, None])
        seen = nn.functional.pad(seen, (sight.columns - seen.shape[1], 0))
        if sight.window is not None or self.fixed or not bool(seen.all()):
            sight.prompt_bias = _written(sight.prompt_bias, self._bias(seen))

    def _bias(self, seen: Tensor) -> Tensor:
        """The addition to scores of keys, [rows, 1, 1, K], from whether they are ``seen`` [rows, K]. It is not a view,
        because the compiler makes other graphs for views."""
        shape = (len(seen), 1, 1, seen.shape[1])
        zeros = torch.zeros(shape, dtype=self.layers[0].prompt_keys.dtype, device=seen.device)
        return zeros.masked_fill_(~seen[:, None, None], MASKED)

    def _grow(self) -> None:
        for layer in self.layers:
            for name in ("own_keys", "own_values"):
                setattr(layer, name, nn.functional.pad(getattr(layer, name), (0, 0, 0, self.block)))
        self._changed()

    def keep(self, rows: Tensor, prompts: Tensor, table: Tensor, places: Tensor) -> None:
        """Keep the completions at ``rows`` [M] and the prompts at ``prompts`` [B], in that order. ``table`` and
        ``places`` are as in `_place`, in the new numbers."""
        others = prompts.tolist() != list(range(len(self.mask)))
        for layer in self.layers:
            layer.own_keys, layer.own_values = layer.own_keys[rows], layer.own_values[rows]
            if others:
                layer.prompt_keys, layer.prompt_values = layer.prompt_keys[prompts], layer.prompt_values[prompts]
        if others:
            self.order, self.mask, self.lengths = self.order[prompts], self.mask[prompts], self.lengths[prompts]
        self._place(table, places)
        self._changed()

    def _changed(self) -> None:
        self.version += 1
        for sight in self._sights.values():
            sight.prompt_bias = sight.own_bias = None

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values."""
        parts = ("prompt_keys", "prompt_values", "own_keys", "own_values")
        return sum(getattr(layer, part).nbytes for layer, part in itertools.product(self.layers, parts))


def _is_filled(layer: object) -> bool:
    return getattr(layer, "is_initialized", True)


def _written(buffer: Tensor | None, value: Tensor) -> Tensor:
    """``value``, in the memory of ``buffer`` if there is one: a captured step reads from a fixed address."""
    return value if buffer is None else buffer.copy_(value)


def why_not_grouped(model: nn.Module) -> str | None:
    """Reason why the model cannot decode with a `GroupCache` by its configuration; None if it may."""
    others = decoder_layers(model).kinds - {FULL, SLIDING}
    return f"its {min(others)} layers hold more than keys and values" if others else None


def attend_grouped(
    module: nn.Module,
    query: Tensor,
    key: GroupLayer,
    value: GroupLayer,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **others: object,
) -> tuple[Tensor, None]:
    """Attention of one query per completion, [M, query heads, 1, head size], to its prompt and its own tokens.

    The signature is the one that transformers asks for. ``key`` is the layer of a `GroupCache`. Returns [M, 1, query
    heads, head size].
    """
    refuse_unknown(others, dropout)
    layer, cache, sight = key, key.cache, key.sight
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    heads = layer.own_keys.shape[1]
    own_query = query.reshape(query.shape[0], heads, -1, query.shape[-1])  # [M, heads, query heads per head, size]

    keys, values = layer.own_keys, layer.own_values
    if not cache.fixed:
        keys, values = (part[:, :, sight.first : sight.last + 1] for part in (keys, values))
    own = attend_part(own_query, keys, values, sight.own_bias, scale)
    shared = _attend_prompts(own_query, layer, scale)
    joined = join_parts(*shared, *own).to(query.dtype)
    return joined.reshape(query.shape[0], 1, query.shape[1], -1), None


def _attend_prompts(own_query: Tensor, layer: GroupLayer, scale: float) -> tuple[Tensor, Tensor]:
    """Attention to the prompts, one product per group: results [M, heads, per head, size] and log-sum-exp."""
    cache = layer.cache
    prompts, places = cache.table.shape
    _, heads, per_head, size = own_query.shape
    rows = own_query if cache.full else own_query[cache.table.flatten()]
    query = rows.reshape(prompts, places, heads, per_head, size).transpose(1, 2)
    result, logsum = attend_part(
        query.reshape(prompts, heads, places * per_head, size),
        layer.prompt_keys,
        layer.prompt_values,
        layer.sight.prompt_bias,
        scale,
    )
    result = result.view(prompts, heads, places, per_head, -1).transpose(1, 2).flatten(0, 1)
    logsum = logsum.view(prompts, heads, places, per_head).transpose(1, 2).flatten(0, 1)
    return (result, logsum) if cache.full else (result[cache.places], logsum[cache.places])


AttentionInterface.register(NAME, attend_grouped)


@contextmanager
def grouped_attention(model: nn.Module) -> Iterator[None]:
    """Let the model's layers attend by `attend_grouped` within the block. Masks are not made then."""
    with attention_named(configs_of(model.modules()), NAME):
        yield

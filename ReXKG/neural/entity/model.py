"""PURE's span classifier (arXiv 2010.12812): a BERT, and a small network on every span of up to eight words."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import linear, relu
from transformers import BertConfig

from ReXKG.graph import ENTITY_TYPES
from ReXKG.neural.bert import encode_at
from ReXKG.neural.model import PieceBatch, PureModel

MAX_SPAN = 8
ENTITY_LABELS = (None, *ENTITY_TYPES)
_WIDTH_SIZE = _HEAD_SIZE = 150
_HEAD_DROPOUT = 0.2


@dataclass(frozen=True)
class EntityBatch(PieceBatch):
    """A batch with its ``spans`` [spans, 4]: row, first piece, last piece, width in words."""

    spans: torch.Tensor

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.spans.shape[1:] != (4,):
            raise ValueError(f"spans {list(self.spans.shape)} are not [spans, 4]")


class EntityModel(PureModel):
    """Logits over `ENTITY_LABELS` of [hidden of the first piece; hidden of the last piece; embedding of the width]."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.hidden_dropout = nn.Dropout(config.hidden_dropout_prob)
        self.width_embedding = nn.Embedding(MAX_SPAN + 1, _WIDTH_SIZE)
        self.ner_classifier = nn.Sequential(
            _SpanNetwork(2 * config.hidden_size + _WIDTH_SIZE), nn.Linear(_HEAD_SIZE, len(ENTITY_LABELS))
        )

    def forward(self, batch: EntityBatch) -> torch.Tensor:
        """Logits [spans, 9]."""
        hidden = encode_at(self.bert, batch.ids, batch.mask)
        features = self.ner_classifier[0](self.hidden_dropout(hidden), self.width_embedding.weight, batch.spans)
        return self.ner_classifier[1](features)


class _SpanNetwork(nn.Module):
    """Two layers with ReLU. The first is linear in the three parts of a span. So it is applied once to every piece and
    width, and its results are summed for each span. This gives the same numbers as applying it to every span, for an
    eighth of the work."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._linear_layers = nn.ModuleList([nn.Linear(size, _HEAD_SIZE), nn.Linear(_HEAD_SIZE, _HEAD_SIZE)])
        self.dropout = nn.Dropout(_HEAD_DROPOUT)

    def forward(self, hidden: torch.Tensor, widths: torch.Tensor, spans: torch.Tensor) -> torch.Tensor:
        """Features [spans, 150] from hidden [batch, length, H] and width embeddings [9, 150]."""
        first, second = self._linear_layers
        rows, starts, ends, width = spans.unbind(dim=1)
        of_start, of_end, of_width = first.weight.split([hidden.shape[-1], hidden.shape[-1], widths.shape[-1]], dim=1)
        summed = (
            linear(hidden, of_start)[rows, starts]
            + linear(hidden, of_end)[rows, ends]
            + linear(widths, of_width, first.bias)[width]
        )
        return self.dropout(relu(second(self.dropout(relu(summed)))))

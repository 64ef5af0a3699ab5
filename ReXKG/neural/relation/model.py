"""PURE's relation classifier (arXiv 2010.12812): a BERT on the sentence with both entities marked."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from transformers import BertConfig

from ReXKG.graph import RELATION_TYPES
from ReXKG.neural.bert import encode_at
from ReXKG.neural.model import PieceBatch, PureModel

NO_RELATION = "no_relation"
RELATION_LABELS = (NO_RELATION, *RELATION_TYPES)
LONGEST_INPUT = 256


@dataclass(frozen=True)
class RelationBatch(PieceBatch):
    """A batch with its ``markers`` [batch, 2]: the positions of the start markers of source and target."""

    markers: torch.Tensor

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.markers.shape != (len(self.ids), 2):
            raise ValueError(f"markers {list(self.markers.shape)} are not [{len(self.ids)}, 2]")


class RelationModel(PureModel):
    """Logits over `RELATION_LABELS` of [hidden of the source's start marker; hidden of the target's] after layer
    normalization."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.layer_norm = nn.LayerNorm(2 * config.hidden_size)
        self.classifier = nn.Linear(2 * config.hidden_size, len(RELATION_LABELS))

    @property
    def longest(self) -> int:
        return min(LONGEST_INPUT, super().longest)

    def forward(self, batch: RelationBatch) -> torch.Tensor:
        """Logits [batch, 4]."""
        hidden = encode_at(self.bert, batch.ids, batch.mask, batch.markers)
        return self.classifier(self.dropout(self.layer_norm(hidden.flatten(1))))

"""PURE's relation classifier (arXiv 2010.12812): a BERT on the sentence with both entities marked."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from transformers import BertConfig, BertModel

from ReXKG.graph import RELATION_TYPES
from ReXKG.neural.bert import encode_at
from ReXKG.neural.checkpoint import PureModel

NO_RELATION = "no_relation"
RELATION_LABELS = (NO_RELATION, *RELATION_TYPES)
LONGEST_INPUT = 256


@dataclass(frozen=True)
class RelationBatch:
    """``ids`` and ``mask`` [batch, length]; ``markers`` [batch, 2]: where source and target start markers stand."""

    ids: torch.Tensor
    mask: torch.Tensor
    markers: torch.Tensor

    def __post_init__(self) -> None:
        if self.ids.shape != self.mask.shape or self.markers.shape != (len(self.ids), 2):
            raise ValueError(f"shapes {self.ids.shape}, {self.mask.shape}, {self.markers.shape} do not fit together")


class RelationModel(PureModel):
    """Logits over `LABELS` of [hidden of the source's start marker; hidden of the target's], layer-normalised.

    Modules bear PURE's names, so that its checkpoints fit.
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.bert = BertModel(config, add_pooling_layer=False)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.layer_norm = nn.LayerNorm(2 * config.hidden_size)
        self.classifier = nn.Linear(2 * config.hidden_size, len(RELATION_LABELS))

    @property
    def longest(self) -> int:
        """The most word-pieces of one input, markers, [CLS] and [SEP] included."""
        return min(LONGEST_INPUT, self.bert.config.max_position_embeddings)

    def forward(self, batch: RelationBatch) -> torch.Tensor:
        """Logits [batch, 4]."""
        hidden = encode_at(self.bert, batch.ids, batch.mask, batch.markers)
        return self.classifier(self.dropout(self.layer_norm(hidden.flatten(1))))

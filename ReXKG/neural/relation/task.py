"""The task of the relation model: every ordered pair of entities in a sentence has one of the relations or none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch.nn.functional import cross_entropy

from ReXKG.graph import RELATION_TYPES
from ReXKG.neural.agreement import agreement
from ReXKG.neural.annotations import AnnotatedSentence
from ReXKG.neural.entity.reader import EntityReader
from ReXKG.neural.mentions import Mention
from ReXKG.neural.relation.model import RELATION_LABELS
from ReXKG.neural.relation.reader import Pair, RelationReader


class LabeledPair(NamedTuple):
    """A pair and the label of its relation."""

    pair: Pair
    label: int

    @property
    def ids(self) -> list[int]:
        return self.pair.ids


class RelationTask:
    """Trains the model of a reader on annotated entities."""

    def __init__(self, reader: RelationReader) -> None:
        self.reader, self.model = reader, reader.model

    def examples(self, sentences: Sequence[AnnotatedSentence]) -> list[LabeledPair]:
        """Every ordered pair of annotated mentions."""
        examples = []
        for number, sentence in enumerate(sentences):
            gold = {
                (relation.source, relation.target): RELATION_LABELS.index(relation.label)
                for relation in sentence.relations
            }
            for pair in self.reader.pairs(number, sentence.words, sentence.mentions):
                examples.append(LabeledPair(pair, gold.get((pair.source, pair.target), 0)))
        return examples

    def loss(self, batch: Sequence[LabeledPair]) -> torch.Tensor:
        """Mean cross-entropy over pairs."""
        logits = self.model(self.reader.collate([example.pair for example in batch]))
        return cross_entropy(logits, torch.tensor([example.label for example in batch], device=logits.device))

    def score(self, sentences: Sequence[AnnotatedSentence], entities: EntityReader | None = None) -> dict[str, Any]:
        """`agreement` of predicted with annotated relations, between annotated mentions or, with ``entities``, between
        the mentions that it predicts (end to end)."""
        words = [sentence.words for sentence in sentences]
        mentions: Sequence[Sequence[Mention]] = (
            entities.predict(words) if entities else [sentence.mentions for sentence in sentences]
        )
        predicted = self.reader.predict(words, mentions)
        return agreement(predicted, [sentence.relations for sentence in sentences], RELATION_TYPES)

"""The entity model's task: every span of up to eight words is one of the types or none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch.nn.functional import cross_entropy

from ReXKG.graph import ENTITY_TYPES
from ReXKG.neural.agreement import agreement
from ReXKG.neural.annotations import AnnotatedSentence
from ReXKG.neural.entity.model import ENTITY_LABELS
from ReXKG.neural.entity.reader import EntityReader, Window


class LabeledWindow(NamedTuple):
    """A window and the label of each of its spans, in the order of `Window.spans`."""

    window: Window
    labels: list[int]

    @property
    def ids(self) -> list[int]:
        return self.window.ids


class EntityTask:
    """Trains the model of a reader. Annotated spans of more than eight words cannot be predicted: they are not trained
    on, and they count as missed."""

    def __init__(self, reader: EntityReader) -> None:
        self.reader, self.model = reader, reader.model

    def examples(self, sentences: Sequence[AnnotatedSentence]) -> list[LabeledWindow]:
        """The windows of all sentences."""
        examples = []
        for number, sentence in enumerate(sentences):
            gold = {(mention.start, mention.end): ENTITY_LABELS.index(mention.label) for mention in sentence.mentions}
            for window in self.reader.windows(number, sentence.words):
                examples.append(LabeledWindow(window, [gold.get(span, 0) for span in window.spans()]))
        return examples

    def loss(self, batch: Sequence[LabeledWindow]) -> torch.Tensor:
        """Mean cross-entropy over spans, most of which are not entities."""
        logits = self.model(self.reader.collate([example.window for example in batch]))
        labels = [label for example in batch for label in example.labels]
        return cross_entropy(logits, torch.tensor(labels, device=logits.device))

    def score(self, sentences: Sequence[AnnotatedSentence]) -> dict[str, Any]:
        """`agreement` of predicted with annotated mentions."""
        predicted = self.reader.predict([sentence.words for sentence in sentences])
        return agreement(predicted, [sentence.mentions for sentence in sentences], ENTITY_TYPES)

"""The common part of both readers: a model on a device, its word-pieces, and its choices for a stream of inputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Generic

import torch

from ReXKG.neural.batching import Input, batches, predicting, usual_budget
from ReXKG.neural.model import PieceBatch, PureModel
from ReXKG.neural.pieces import WordPieces


class ModelReader(Generic[Input]):
    """Predicts a label for every row that a model makes of its inputs.

    Args:
        model: moved to the device.
        pieces: words to the model's word-pieces.
        device: a torch device.
        token_budget: padded word-pieces per batch, by default what suits the device.
    """

    def __init__(self, model: PureModel, pieces: WordPieces, device: str, token_budget: int | None = None) -> None:
        self.device = torch.device(device)
        self.model, self.pieces = model.to(self.device), pieces
        self.token_budget = token_budget or usual_budget(self.device)

    def collate(self, inputs: Sequence[Input]) -> PieceBatch:
        """One batch of inputs, in their order."""
        raise NotImplementedError

    def predict_batches(self, inputs: Iterable[Input]) -> Iterator[tuple[list[Input], list[int]]]:
        """Batches of inputs, sorted by length, each with the most likely label of every row of its logits."""
        for batch in batches(inputs, self.token_budget):
            with predicting(self.device):
                labels = self.model(self.collate(batch)).argmax(dim=1).tolist()
            yield batch, labels

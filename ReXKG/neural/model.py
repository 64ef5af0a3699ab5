"""The common part of both PURE models: an encoder, its input, and reading from a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from torch import nn
from transformers import BertConfig, BertModel
from transformers.initialization import no_init_weights

from ReXKG.neural.checkpoint import load_model, read_config


@dataclass(frozen=True)
class PieceBatch:
    """Word-piece ids and attention mask, both [batch, length].

    Raises:
        ValueError: the shapes do not fit together.
    """

    ids: torch.Tensor
    mask: torch.Tensor

    def __post_init__(self) -> None:
        if self.ids.shape != self.mask.shape:
            raise ValueError(f"ids {list(self.ids.shape)} and mask {list(self.mask.shape)} differ in shape")


class PureModel(nn.Module):
    """A BERT encoder, to which a subclass adds its head.

    Modules have PURE's names, so that its checkpoints fit.
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.bert = BertModel(config, add_pooling_layer=False)

    @classmethod
    def read(cls, folder: str | Path) -> Self:
        """A model in evaluation mode from a folder that PURE or `ReXKG.train` wrote.

        Raises:
            ValueError: the folder is incomplete or does not fit the model; the message names the file.
        """
        config = read_config(Path(folder))
        with no_init_weights():  # every tensor is read below
            model = cls(config)
        load_model(model, Path(folder))
        return model.eval()

    @property
    def longest(self) -> int:
        """The most word-pieces of one input, markers, [CLS] and [SEP] included."""
        return self.bert.config.max_position_embeddings

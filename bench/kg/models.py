"""Models for bench/kg/reward.py: PURE checkpoints with random weights that predict as many entities and relations as
trained ones, and the published way of using them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import pad

from ReXKG.graph import Graph, merge_sentences
from ReXKG.neural.annotations import AnnotatedSentence
from ReXKG.neural.checkpoint import load_encoder, read_config, save_json, save_model
from ReXKG.neural.encoder import write_encoder
from ReXKG.neural.entity.model import EntityModel
from ReXKG.neural.entity.reader import EntityReader
from ReXKG.neural.extractor import NeuralExtractor
from ReXKG.neural.folders import ModelFolders
from ReXKG.neural.pieces import WordPieces
from ReXKG.neural.relation.markers import read_markers, write_markers
from ReXKG.neural.relation.model import LONGEST_INPUT, RelationBatch, RelationModel
from ReXKG.neural.relation.reader import Pair, RelationReader
from ReXKG.text import split_sentences, tokenize

ENTITY_SHARE = 0.35  # of words, all entities of one word
RELATED_SHARE = 0.2  # of ordered pairs; in the demo world's annotations 0.17
PAIRS_BUDGET = 640  # word-pieces per batch of the plain way, before padding: about 32 pairs


def write_models(root: Path, words: Sequence[Sequence[str]], hidden_size: int, layers: int) -> ModelFolders:
    """Write run_entity and run_relation into ``root``. Weights are random. The last biases are set so that of these
    sentences `ENTITY_SHARE` of the words are entities and `RELATED_SHARE` of the pairs are related, of various
    types."""
    folders = ModelFolders(root / "run_entity", root / "run_relation", root)
    for folder in folders[:2]:
        write_encoder(folder, [AnnotatedSentence(tuple(sentence), (), ()) for sentence in words], hidden_size, layers)
    config = read_config(folders.entity)
    pieces = WordPieces.read((folders.entity,), config.vocab_size)
    torch.manual_seed(0)
    entities, relations = EntityModel(config).eval(), RelationModel(config).eval()
    for model, folder in ((entities, folders.entity), (relations, folders.relation)):
        load_encoder(model.bert, folder)
    write_markers(folders.relation, pieces)

    reader = EntityReader(entities, pieces, "cpu")
    _keep_to_single_words(entities)
    windows = reader.collate([window for sentence in words for window in reader.windows(0, sentence)])
    _balance(entities, entities.ner_classifier[1].bias, windows, ENTITY_SHARE, windows.spans[:, 3] == 1)
    linker = RelationReader(relations, pieces, read_markers(folders.relation, pieces), "cpu")
    pairs = [
        pair
        for sentence, mentions in zip(words, reader.predict(words), strict=True)
        for pair in linker.pairs(0, sentence, mentions)
    ]
    batch = linker.collate(pairs)
    _balance(relations, relations.classifier.bias, batch, RELATED_SHARE, torch.ones(len(pairs), dtype=torch.bool))

    for model, folder in ((entities, folders.entity), (relations, folders.relation)):
        save_json(config.to_dict(), folder / "config.json")
        save_model(model, folder)
    return folders


@torch.no_grad()
def _keep_to_single_words(model: EntityModel) -> None:
    """Make one unit of the head read the width and outvote every type for spans of several words."""
    first, second = model.ner_classifier[0]._linear_layers
    last = model.ner_classifier[1]
    model.width_embedding.weight[:, 0] = 100.0 * (torch.arange(len(model.width_embedding.weight)) > 1)
    first.weight[0], first.bias[0], second.weight[0], second.bias[0], last.weight[:, 0] = 0, 0, 0, 0, 0
    first.weight[0, -model.width_embedding.embedding_dim] = second.weight[0, 0] = last.weight[0, 0] = 1


@torch.no_grad()
def _balance(model: nn.Module, bias: torch.Tensor, batch: object, share: float, counted: torch.Tensor) -> None:
    """Set the bias so that no type is favored and ``share`` of the counted rows get a type. The threshold is midway
    between two rows that differ, so that rounding changes no row."""
    logits = model(batch)[counted]
    means = logits.mean(dim=0)
    leads = (logits - means)[:, 1:].amax(dim=1) - (logits - means)[:, 0]
    bias -= means
    below = torch.quantile(leads, 1 - share, interpolation="lower")
    bias[0] += (below + leads[leads > below + 1e-4].min()) / 2


class PlainRelationModel(nn.Module):
    """The same relation model in the plain way: transformers' own forward pass, every position in every layer."""

    def __init__(self, model: RelationModel) -> None:
        super().__init__()
        self.model, self.longest = model, model.longest

    def forward(self, batch: RelationBatch) -> torch.Tensor:
        """Logits [batch, 4]."""
        hidden = self.model.bert(batch.ids, batch.mask).last_hidden_state
        rows = torch.arange(len(hidden))[:, None]
        return self.model.classifier(self.model.layer_norm(hidden[rows, batch.markers].flatten(1)))


class PaddedReader(RelationReader):
    """Pads every pair to the model's full length, as the published inference did."""

    def __init__(self, reader: RelationReader) -> None:
        super().__init__(PlainRelationModel(reader.model), reader.pieces, reader.markers, "cpu", PAIRS_BUDGET)

    def collate(self, pairs: Sequence[Pair]) -> RelationBatch:
        """As `RelationReader.collate`, [batch, 256]."""
        batch = super().collate(pairs)
        missing = (0, LONGEST_INPUT - batch.ids.shape[1])
        return RelationBatch(pad(batch.ids, missing, value=self.pieces.pad), pad(batch.mask, missing), batch.markers)


def naive_extractor(folders: ModelFolders) -> NeuralExtractor:
    """The models read from disk, with a relation model that pads every pair."""
    extractor = NeuralExtractor(folders, "cpu")
    extractor.relations = PaddedReader(extractor.relations)
    return extractor


def naive_graphs(extractor: NeuralExtractor, texts: Sequence[str]) -> list[Graph]:
    """The graphs of texts, one text after the other. Repeated sentences are read again."""
    graphs = []
    for position, text in enumerate(texts):
        sentences = [" ".join(tokenize(sentence)) for sentence in split_sentences(text, minimum_words=2)]
        graphs.append(merge_sentences(extractor.read_afresh(sentences), doc_key=str(position)))
    return graphs

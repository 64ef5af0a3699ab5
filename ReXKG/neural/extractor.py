"""The neural extractor: PURE's entity and relation models behind the interface of the lexicon extractor.

Text is handled as the published code did: sentences of one word are skipped, the rest is read word by word. A sentence
is read once while it is remembered, all new sentences of a call together.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch

from ReXKG.graph import Graph, SentenceGraph, merge_sentences
from ReXKG.neural.checkpoint import model_fingerprint
from ReXKG.neural.entity.model import EntityModel
from ReXKG.neural.entity.reader import EntityReader
from ReXKG.neural.folders import ModelFolders
from ReXKG.neural.pieces import WordPieces
from ReXKG.neural.relation.markers import read_markers
from ReXKG.neural.relation.model import RelationModel
from ReXKG.neural.relation.reader import RelationReader
from ReXKG.text import split_sentences, tokenize

CACHED_SENTENCES = 50_000
LONGEST_CACHED = 1_000
READ_AT_ONCE = 4_096
_MINIMUM_WORDS = 2


class NeuralExtractor:
    """Graphs of texts by two trained models. One instance may serve a whole process; its memory is bounded by
    `CACHED_SENTENCES` sentences of at most `LONGEST_CACHED` characters, the least recently used forgotten first.

    Args:
        folders: where the models lie (`ReXKG.neural.folders.find_models`).
        device: a torch device; the current GPU, or else the CPU, where None is given.
        markers: whose marker convention (`ReXKG.neural.relation.markers`): "checkpoint" or "published".
        token_budget: padded word-pieces in a batch, by default what suits the device; changes the speed and nothing
            else.

    Raises:
        ValueError: a folder is incomplete or is not what it should be; the message names file and mend.
    """

    def __init__(
        self,
        folders: ModelFolders,
        device: str | None = None,
        markers: str = "checkpoint",
        token_budget: int | None = None,
    ) -> None:
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        entities, relations = EntityModel.read(folders.entity), RelationModel.read(folders.relation)
        pieces = [
            WordPieces.read((folder, folders.tokenizer), model.bert.config.vocab_size)
            for folder, model in ((folders.entity, entities), (folders.relation, relations))
        ]
        table = read_markers(folders.relation, pieces[1], markers)
        vocabularies = [sorted(one.vocabulary.items()) for one in pieces]
        self.name = f"neural-{model_fingerprint((entities, relations), vocabularies, table)}"
        self.entities = EntityReader(entities, pieces[0], device, token_budget)
        self.relations = RelationReader(relations, pieces[1], table, device, token_budget)
        self._remembered: OrderedDict[str, SentenceGraph] = OrderedDict()

    def __call__(self, texts: list[str]) -> list[Graph]:
        """One graph per text, in order; ``doc_key`` is the text's position."""
        split = [[" ".join(tokenize(one)) for one in split_sentences(text, _MINIMUM_WORDS)] for text in texts]
        graphs = self._read_all(dict.fromkeys(sentence for sentences in split for sentence in sentences))
        return [
            merge_sentences((graphs[sentence] for sentence in sentences), doc_key=str(position))
            for position, sentences in enumerate(split)
        ]

    def _read_all(self, sentences: dict[str, None]) -> dict[str, SentenceGraph]:
        """Sentence to graph, from memory where it is remembered."""
        graphs = {}
        for sentence in filter(self._remembered.__contains__, sentences):
            self._remembered.move_to_end(sentence)
            graphs[sentence] = self._remembered[sentence]
        new = [sentence for sentence in sentences if sentence not in graphs]
        for first in range(0, len(new), READ_AT_ONCE):
            chunk = new[first : first + READ_AT_ONCE]
            graphs |= zip(chunk, self.read_afresh(chunk), strict=True)
        for sentence in new:
            if len(sentence) <= LONGEST_CACHED:
                self._remembered[sentence] = graphs[sentence]
        while len(self._remembered) > CACHED_SENTENCES:
            self._remembered.popitem(last=False)
        return graphs

    def read_afresh(self, sentences: Sequence[str]) -> list[SentenceGraph]:
        """The graphs of sentences, each given as words joined with blanks. Neither uses nor fills the memory."""
        words = [sentence.split() for sentence in sentences]
        mentions = self.entities.predict(words)
        relations = self.relations.predict(words, mentions)
        graphs = []
        for sentence, here, found, related in zip(sentences, words, mentions, relations, strict=True):
            texts = {mention: " ".join(here[mention.start : mention.end + 1]) for mention in found}
            graphs.append(
                SentenceGraph(
                    sentence,
                    {text: mention.label for mention, text in texts.items()},
                    tuple((texts[one.source], texts[one.target], one.label) for one in related),
                )
            )
        return graphs

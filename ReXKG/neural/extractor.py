"""The neural extractor: PURE's entity and relation models behind the interface of the lexicon extractor.

Text is handled as the published code did: sentences of one word are skipped, the others are read word by word. If rules
decide the polarity, a text is divided as they need it (`split_statements`). All new sentences of a call are read
together.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ReXKG.graph import Graph, SentenceGraph
from ReXKG.lexicon.mention_polarity import MentionPolarity
from ReXKG.lexicon.wording import split_statements
from ReXKG.neural.checkpoint import model_fingerprint
from ReXKG.neural.entity.model import EntityModel
from ReXKG.neural.entity.reader import EntityReader
from ReXKG.neural.folders import ModelFolders
from ReXKG.neural.mentions import Mention, Relation
from ReXKG.neural.pieces import WordPieces
from ReXKG.neural.relation.markers import read_markers
from ReXKG.neural.relation.model import RelationModel
from ReXKG.neural.relation.reader import RelationReader
from ReXKG.sentence_cache import SentenceCache
from ReXKG.text import split_sentences, tokenize

READ_AT_ONCE = 4_096
_MINIMUM_WORDS = 2


class NeuralExtractor:
    """Graphs of texts by two trained models. One instance may serve a whole process: its memory is that of a
    `SentenceCache`.

    Attributes:
        name: "neural-" and a fingerprint of weights, vocabularies and markers, and the name of the rules of polarity if
            they decide, for the records of a run.
        leaves_out_questions: True if graphs hold nothing that is only asked, as the rules of polarity see to.

    Args:
        folders: the models' folders (`ReXKG.neural.folders.find_models`).
        device: a torch device; by default the current GPU, or the CPU if there is none.
        markers: the marker convention (`ReXKG.neural.relation.markers`): "checkpoint" or "published".
        token_budget: padded word-pieces per batch, by default what suits the device. It changes the speed only.
        polarity: decides what the models' disorders and devices assert; by default the models do.

    Raises:
        ValueError: a folder is incomplete or is not what it should be; the message names the file and a remedy.
    """

    def __init__(
        self,
        folders: ModelFolders,
        device: str | None = None,
        markers: str = "checkpoint",
        token_budget: int | None = None,
        polarity: MentionPolarity | None = None,
    ) -> None:
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        entities, relations = EntityModel.read(folders.entity), RelationModel.read(folders.relation)
        pieces = [
            WordPieces.read((folder, folders.tokenizer), model.bert.config.vocab_size)
            for folder, model in ((folders.entity, entities), (folders.relation, relations))
        ]
        table = read_markers(folders.relation, pieces[1], markers)
        vocabularies = [sorted(tokenizer.vocabulary.items()) for tokenizer in pieces]
        self.name = f"neural-{model_fingerprint((entities, relations), vocabularies, table)}"
        if polarity is not None:
            self.name += f"-{polarity.name}"
        self.polarity = polarity
        self.leaves_out_questions = polarity is not None
        self.entities = EntityReader(entities, pieces[0], device, token_budget)
        self.relations = RelationReader(relations, pieces[1], table, device, token_budget)
        self.cache = SentenceCache()

    def __call__(self, texts: list[str]) -> list[Graph]:
        """One graph per text, in order; ``doc_key`` is the text's position."""
        if self.polarity is None:
            split = [[" ".join(tokenize(raw)) for raw in split_sentences(text, _MINIMUM_WORDS)] for text in texts]
        else:
            split = [
                [statement for statement in split_statements(text) if len(tokenize(statement)) >= _MINIMUM_WORDS]
                for text in texts
            ]
        return self.cache.read_texts(split, self.read_afresh)

    def read_afresh(self, sentences: Sequence[str]) -> list[SentenceGraph]:
        """The graphs of sentences, each given as words joined with blanks, or raw if rules decide the polarity: they
        need the lines. Neither uses nor fills the cache."""
        return [
            graph
            for first in range(0, len(sentences), READ_AT_ONCE)
            for graph in self._read(sentences[first : first + READ_AT_ONCE])
        ]

    def _read(self, sentences: Sequence[str]) -> list[SentenceGraph]:
        words = [sentence.split() if self.polarity is None else tokenize(sentence) for sentence in sentences]
        mentions = self.entities.predict(words)
        relations = self.relations.predict(words, mentions)
        decide = self._model_labels if self.polarity is None else self.polarity.decide
        labels = [decide(sentence, found) for sentence, found in zip(sentences, mentions, strict=True)]
        return [_sentence_graph(*sentence) for sentence in zip(words, mentions, labels, relations, strict=True)]

    @staticmethod
    def _model_labels(sentence: str, mentions: Sequence[Mention]) -> list[str | None]:
        return [mention.label for mention in mentions]


def _sentence_graph(
    words: Sequence[str],
    mentions: Sequence[Mention],
    labels: Sequence[str | None],
    relations: Sequence[Relation],
) -> SentenceGraph:
    """The graph of a sentence. A mention without a label is left out, with its relations."""
    texts = {mention: " ".join(words[mention.start : mention.end + 1]) for mention in mentions}
    entities = {texts[mention]: label for mention, label in zip(mentions, labels, strict=True) if label is not None}
    triples = ((texts[relation.source], texts[relation.target], relation.label) for relation in relations)
    return SentenceGraph(
        " ".join(words),
        entities,
        tuple(triple for triple in triples if triple[0] in entities and triple[1] in entities),
    )

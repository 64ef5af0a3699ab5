"""Graphs of sentences that were read before. Both extractors remember them: rewards read the same sentences again."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence

from ReXKG.graph import Graph, SentenceGraph, merge_sentences

CACHED_SENTENCES = 50_000
LONGEST_CACHED = 1_000


class SentenceCache:
    """Sentence to graph, for at most `CACHED_SENTENCES` sentences of at most `LONGEST_CACHED` characters each. The
    least recently used is forgotten first. Threads take turns, since rewards run in several."""

    def __init__(self) -> None:
        self._graphs: OrderedDict[str, SentenceGraph] = OrderedDict()
        self._turn = threading.RLock()

    def __len__(self) -> int:
        return len(self._graphs)

    def sentences(self) -> list[str]:
        """The remembered sentences, the least recently used first."""
        return list(self._graphs)

    def read_texts(
        self, texts: Sequence[Sequence[str]], read: Callable[[list[str]], Sequence[SentenceGraph]]
    ) -> list[Graph]:
        """One graph per text, in order; ``doc_key`` is the text's position.

        Args:
            texts: the sentences of each text.
            read: returns the graphs of sentences; called once, with all different sentences that are not remembered.
        """
        with self._turn:
            graphs = self._recall(dict.fromkeys(sentence for sentences in texts for sentence in sentences), read)
        return [
            merge_sentences((graphs[sentence] for sentence in sentences), doc_key=str(position))
            for position, sentences in enumerate(texts)
        ]

    def _recall(
        self, sentences: dict[str, None], read: Callable[[list[str]], Sequence[SentenceGraph]]
    ) -> dict[str, SentenceGraph]:
        """Sentence to graph, from memory if it is remembered."""
        graphs: dict[str, SentenceGraph] = {}
        new = []
        for sentence in sentences:
            graph = self._graphs.get(sentence)
            if graph is None:
                new.append(sentence)
            else:
                self._graphs.move_to_end(sentence)
                graphs[sentence] = graph
        for sentence, graph in zip(new, read(new) if new else (), strict=True):
            graphs[sentence] = graph
            if len(sentence) <= LONGEST_CACHED:
                self._graphs[sentence] = graph
        while len(self._graphs) > CACHED_SENTENCES:
            self._graphs.popitem(last=False)
        return graphs

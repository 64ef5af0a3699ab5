"""From mentions to relations: one marked input for every ordered pair, batches, and the model's choice."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, chain
from typing import NamedTuple

import torch

from ReXKG.neural.batching import pad
from ReXKG.neural.mentions import Mention, Relation
from ReXKG.neural.pieces import WordPieces
from ReXKG.neural.reader import ModelReader
from ReXKG.neural.relation.markers import Markers
from ReXKG.neural.relation.model import RELATION_LABELS, RelationBatch, RelationModel

_ADDED = 6  # [CLS], [SEP] and four markers


class Pair(NamedTuple):
    """An ordered pair of mentions of a sentence (its number) and the input of the model: word-piece ids, and in
    ``markers`` the positions of the two start markers in them."""

    sentence: int
    source: Mention
    target: Mention
    ids: list[int]
    markers: tuple[int, int]


class RelationReader(ModelReader[Pair]):
    """Predicts relations between given mentions. The input of a pair is its sentence or, if that is too long for the
    model, the words around the pair. Mentions too far apart for one input are not related. A word of more than an
    eighth of the input is cut to that."""

    def __init__(
        self,
        model: RelationModel,
        pieces: WordPieces,
        markers: Mapping[str, Markers],
        device: str,
        token_budget: int | None = None,
    ) -> None:
        super().__init__(model, pieces, device, token_budget)
        self.markers = markers
        self._room = model.longest - _ADDED

    def predict(
        self, sentences: Sequence[Sequence[str]], mentions: Sequence[Sequence[Mention]]
    ) -> list[list[Relation]]:
        """The relations of each sentence, by source and then target in the order of its mentions."""
        relations: list[list[Relation]] = [[] for _ in sentences]
        pairs = (
            pair
            for number, sentence in enumerate(zip(sentences, mentions, strict=True))
            for pair in self.pairs(number, *sentence)
        )
        for batch, labels in self.predict_batches(pairs):
            for pair, label in zip(batch, labels, strict=True):
                if label:
                    relations[pair.sentence].append(Relation(pair.source, pair.target, RELATION_LABELS[label]))
        return list(map(sorted, relations))

    def pairs(self, number: int, words: Sequence[str], mentions: Sequence[Mention]) -> Iterator[Pair]:
        """Every ordered pair of different mentions that fits into one input. Time is linear in a long sentence."""
        encoded = [self.pieces(word)[: max(1, self._room // 8)] for word in words]
        flat = list(chain.from_iterable(encoded))
        offsets = [0, *accumulate(map(len, encoded))]
        mentions = sorted(mentions)
        places = [offsets[mention.start] for mention in mentions]
        for i, source in enumerate(mentions):
            near = range(bisect_left(places, places[i] - self._room), bisect_right(places, places[i] + self._room))
            for j in near:
                target = mentions[j]
                inside = self._words_around(offsets, source, target) if i != j else None
                if inside:
                    yield self._mark(number, source, target, flat, offsets, inside)

    def _words_around(self, offsets: list[int], source: Mention, target: Mention) -> tuple[int, int] | None:
        """(first word, end) of the pair's input; None if the pair does not fit. Half of the room that the pair leaves
        is for the words before it and half for the words after it. A side that needs less leaves its room to the
        other."""
        first, end = min(source.start, target.start), max(source.end, target.end) + 1
        spare = self._room - (offsets[end] - offsets[first])
        if spare < 0:
            return None
        first = bisect_left(offsets, offsets[first] - spare // 2)
        end = bisect_right(offsets, offsets[first] + self._room) - 1
        return bisect_left(offsets, offsets[end] - self._room), end

    def _mark(
        self,
        number: int,
        source: Mention,
        target: Mention,
        flat: list[int],
        offsets: list[int],
        inside: tuple[int, int],
    ) -> Pair:
        """The marked input. If markers meet, end markers come before start markers and source before target."""
        of_source, of_target = self.markers[source.label], self.markers[target.label]
        placed = sorted(
            (
                (offsets[source.end + 1], 0, 0, of_source.source_end),
                (offsets[target.end + 1], 0, 1, of_target.target_end),
                (offsets[source.start], 1, 0, of_source.source_start),
                (offsets[target.start], 1, 1, of_target.target_start),
            )
        )
        ids = [self.pieces.cls]
        starts = [0, 0]
        done = offsets[inside[0]]
        for place, is_start, role, marker in placed:
            ids += flat[done:place]
            done = place
            if is_start:
                starts[role] = len(ids)
            ids.append(marker)
        ids += flat[done : offsets[inside[1]]]
        ids.append(self.pieces.sep)
        return Pair(number, source, target, ids, (starts[0], starts[1]))

    def collate(self, pairs: Sequence[Pair]) -> RelationBatch:
        """One batch, in the order of the pairs."""
        ids, mask = pad(pairs, self.pieces.pad, self.device)
        return RelationBatch(ids, mask, torch.tensor([pair.markers for pair in pairs], device=self.device))

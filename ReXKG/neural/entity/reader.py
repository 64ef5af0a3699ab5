"""From words to mentions: windows over long sentences, batches, and the entity model's choice for every span."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from ReXKG.neural.batching import pad
from ReXKG.neural.entity.model import ENTITY_LABELS, MAX_SPAN, EntityBatch, EntityModel
from ReXKG.neural.mentions import Mention
from ReXKG.neural.pieces import WordPieces
from ReXKG.neural.reader import ModelReader


class Window(NamedTuple):
    """Words of a sentence that the model sees together, and the spans that it judges.

    Attributes:
        sentence: number of the sentence.
        first: its first word in the window.
        judged_from, judged_to: spans that start at word ``judged_from`` to ``judged_to - 1`` are judged here.
        ids: word-pieces with [CLS] and [SEP].
        starts, ends: each word's first and last piece in ``ids``.
    """

    sentence: int
    first: int
    judged_from: int
    judged_to: int
    ids: list[int]
    starts: list[int]
    ends: list[int]

    def spans(self) -> Iterator[tuple[int, int]]:
        """First and last word of every span the window judges, counted in the sentence."""
        end = self.first + len(self.starts)
        for start in range(self.judged_from, self.judged_to):
            for last in range(start, min(start + MAX_SPAN, end)):
                yield start, last


class EntityReader(ModelReader[Window]):
    """Predicts mentions. A sentence that is too long for the model is read in overlapping windows (`split_words`). A
    word of more than a sixteenth of the model's length is cut to that, so that every span fits.

    Raises:
        ValueError: the encoder takes too few word-pieces for a span of eight words.
    """

    def __init__(self, model: EntityModel, pieces: WordPieces, device: str, token_budget: int | None = None) -> None:
        super().__init__(model, pieces, device, token_budget)
        self._room = model.longest - 2
        self._longest_word = self._room // (2 * MAX_SPAN)
        if not self._longest_word:
            raise ValueError(f"the encoder takes {model.longest} word-pieces; it needs at least {2 * MAX_SPAN + 2}")

    def predict(self, sentences: Sequence[Sequence[str]]) -> list[list[Mention]]:
        """The mentions of each sentence, given as words, in order of start and end. Mentions may overlap."""
        mentions: list[list[Mention]] = [[] for _ in sentences]
        windows = (window for number, words in enumerate(sentences) for window in self.windows(number, words))
        for batch, labels in self.predict_batches(windows):
            places = ((window.sentence, *span) for window in batch for span in window.spans())
            for (sentence, start, end), label in zip(places, labels, strict=True):
                if label:
                    mentions[sentence].append(Mention(start, end, ENTITY_LABELS[label]))
        return list(map(sorted, mentions))

    def windows(self, number: int, words: Sequence[str]) -> Iterator[Window]:
        """The windows of a sentence, one if it fits. Every span of the sentence is judged by exactly one of them."""
        encoded = [self.pieces(word)[: self._longest_word] for word in words]
        for first, end, judged_from, judged_to in split_words(list(map(len, encoded)), self._room):
            ids, starts, ends = [self.pieces.cls], [], []
            for word in encoded[first:end]:
                starts.append(len(ids))
                ids += word
                ends.append(len(ids) - 1)
            yield Window(number, first, judged_from, judged_to, [*ids, self.pieces.sep], starts, ends)

    def collate(self, windows: Sequence[Window]) -> EntityBatch:
        """One batch. Spans come window by window, in the order of `Window.spans`."""
        ids, mask = pad(windows, self.pieces.pad, self.device)
        spans = [
            (row, window.starts[start - window.first], window.ends[end - window.first], end - start + 1)
            for row, window in enumerate(windows)
            for start, end in window.spans()
        ]
        return EntityBatch(ids, mask, torch.tensor(spans, dtype=torch.long).reshape(-1, 4).to(self.device))


def split_words(lengths: Sequence[int], room: int) -> Iterator[tuple[int, int, int, int]]:
    """Overlapping windows over the words of a sentence.

    Each start of a span is judged by one window, the first that holds the longest span from there with a quarter of the
    room behind it. A window begins a quarter of the room before the starts that it judges.

    Args:
        lengths: word-pieces of each word, 1 to room / 16 each, which leaves at least a quarter of a window to judge.
        room: the most pieces of a window.

    Yields:
        (first word, end, first judged start, end of judged starts).
    """
    first = judged = 0
    while True:
        end = _forward(lengths, first, room)
        if end == len(lengths):
            yield first, end, judged, end
            return
        until = min(_back(lengths, end, room // 4), end - MAX_SPAN + 1)
        yield first, end, judged, until
        judged, first = until, _back(lengths, until, room // 4)


def _forward(lengths: Sequence[int], start: int, room: int) -> int:
    """The furthest end such that words start..end-1 have at most ``room`` pieces."""
    end = start
    while end < len(lengths) and lengths[end] <= room:
        room -= lengths[end]
        end += 1
    return end


def _back(lengths: Sequence[int], end: int, room: int) -> int:
    """The furthest start back such that words start..end-1 have at most ``room`` pieces."""
    start = end
    while start > 0 and lengths[start - 1] <= room:
        room -= lengths[start - 1]
        start -= 1
    return start

"""From words to mentions: windows over long sentences, batches, and the entity model's choice for every span."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from ReXKG.neural.batching import batches, pad, predicting, usual_budget
from ReXKG.neural.entity.model import ENTITY_LABELS, MAX_SPAN, EntityBatch, EntityModel
from ReXKG.neural.mentions import Mention
from ReXKG.neural.pieces import WordPieces


class Window(NamedTuple):
    """Words of a sentence that the model sees together, and the spans that are its to judge: those that start at word
    ``judged_from`` to ``judged_to - 1``. ``starts`` and ``ends`` are each word's first and last piece in ``ids``."""

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


class EntityReader:
    """Predicts mentions. A sentence that is too long for the model is read in overlapping windows (`split_words`); a
    word of more than a sixteenth of the model's length is cut to that, so that every span fits."""

    def __init__(self, model: EntityModel, pieces: WordPieces, device: str, token_budget: int | None = None) -> None:
        self.device = torch.device(device)
        self.model, self.pieces = model.to(self.device), pieces
        self.token_budget = token_budget or usual_budget(self.device)
        self._room = model.longest - 2
        self._longest_word = self._room // (2 * MAX_SPAN)
        if not self._longest_word:
            raise ValueError(f"the encoder takes {model.longest} word-pieces; it needs at least {2 * MAX_SPAN + 2}")

    def predict(self, sentences: Sequence[Sequence[str]]) -> list[list[Mention]]:
        """The mentions of each sentence, given as words, in order of start and end; they may overlap."""
        found: list[list[Mention]] = [[] for _ in sentences]
        windows = (window for number, words in enumerate(sentences) for window in self.windows(number, words))
        for batch in batches(windows, self.token_budget):
            with predicting(self.device):
                labels = self.model(self.collate(batch)).argmax(dim=1).tolist()
            places = ((window.sentence, *span) for window in batch for span in window.spans())
            for (sentence, start, end), label in zip(places, labels, strict=True):
                if label:
                    found[sentence].append(Mention(start, end, ENTITY_LABELS[label]))
        return [sorted(mentions) for mentions in found]

    def windows(self, number: int, words: Sequence[str]) -> Iterator[Window]:
        """The windows of a sentence, one where it fits, whose spans are all its spans, each once."""
        encoded = [self.pieces(word)[: self._longest_word] for word in words]
        for first, end, judged_from, judged_to in split_words(list(map(len, encoded)), self._room):
            ids, starts, ends = [self.pieces.cls], [], []
            for word in encoded[first:end]:
                starts.append(len(ids))
                ids += word
                ends.append(len(ids) - 1)
            yield Window(number, first, judged_from, judged_to, [*ids, self.pieces.sep], starts, ends)

    def collate(self, windows: Sequence[Window]) -> EntityBatch:
        """One batch; spans come window by window, in the order of `Window.spans`."""
        ids, mask = pad(windows, self.pieces.pad, self.device)
        spans = [
            (row, window.starts[start - window.first], window.ends[end - window.first], end - start + 1)
            for row, window in enumerate(windows)
            for start, end in window.spans()
        ]
        return EntityBatch(ids, mask, torch.tensor(spans, dtype=torch.long).reshape(-1, 4).to(self.device))


def split_words(lengths: Sequence[int], room: int) -> Iterator[tuple[int, int, int, int]]:
    """Windows (first word, end, first judged start, end of judged starts) over words of these many pieces.

    A window holds up to ``room`` pieces. Each start of a span is judged by one window: the first that holds the longest
    span from there with a quarter of the room behind it; a window begins a quarter of the room before the starts it
    judges. Lengths are 1 to room / 16, which leaves at least a quarter of each window to judge.
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

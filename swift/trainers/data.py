"""Prompts for a trainer's data loader, in an order that depends on (seed, epoch) alone."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from torch.utils.data import Dataset, Sampler

from swift.llm.dataset import Record
from swift.llm.images.source import ImageSource, open_image
from swift.llm.template.protocol import EncodedPrompt, Template
from swift.utils.errors import UserError
from swift.utils.logger import get_logger

logger = get_logger()

DatasetItem = TypeVar("DatasetItem")
THUMBNAIL, SMALLEST = 56, 28  # longest and shortest side of a shrunk image, pixels


@dataclass(frozen=True)
class PromptItem:
    """One question of a dataset, as a record and as model input."""

    index: int  # place in the dataset
    record: Record
    prompt: EncodedPrompt


class Replacements:
    """Items of a dataset that turned out to be unreadable during a run, each replaced by the next one that is not.

    With ``skips`` False, which is the default, an unreadable item is an error.
    """

    def __init__(self, length: int) -> None:
        self.length, self.skips = length, False
        self.problems: dict[int, str] = {}  # by index

    def read(self, indexes: Sequence[int], encode: Callable[[Sequence[int]], list[DatasetItem]]) -> list[DatasetItem]:
        """The items at ``indexes``, as ``encode`` makes them of good indexes. Raises UserError if an item is unreadable
        and not to be skipped, or if no readable one is left."""
        indexes = [self._readable(index) for index in indexes]
        try:
            return encode(indexes)
        except UserError:
            if not self.skips:
                raise
        return [self._read_one(index, encode) for index in indexes]

    def _read_one(self, index: int, encode: Callable[[Sequence[int]], list[DatasetItem]]) -> DatasetItem:
        while True:
            index = self._readable(index)
            try:
                return encode([index])[0]
            except UserError as error:
                self.problems[index] = str(error)
                logger.warning("skipped from now on: %s", error)

    def _readable(self, index: int) -> int:
        """``index``, or the next one that is not known to be unreadable."""
        if index not in self.problems:
            return index
        following = ((index + step) % self.length for step in range(1, self.length))
        if (found := next((other for other in following if other not in self.problems), None)) is None:
            raise UserError(f"no record can be read any more, the first problem: {next(iter(self.problems.values()))}")
        return found


class PromptDataset(Dataset):
    """Records that are encoded on access. Images are decoded in the template's threads, or in data loader workers."""

    def __init__(self, records: Sequence[Record], template: Template) -> None:
        self.records = records
        self.template = template
        self.replacements = Replacements(len(records))

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> PromptItem:
        return self.items([index])[0]

    def items(self, indexes: Sequence[int]) -> list[PromptItem]:
        """The items at ``indexes``, with their images decoded in parallel."""
        return self.replacements.read(indexes, self.encode)

    def encode(self, indexes: Sequence[int]) -> list[PromptItem]:
        """The items at exactly these ``indexes``. Raises UserError for an unreadable image."""
        records = [self.records[index] for index in indexes]
        return list(map(PromptItem, indexes, records, self.template.encode_prompts(records)))

    __getitems__ = items  # called by a data loader to read a batch

    def prefetch(self, indexes: Iterable[int]) -> None:
        """Announce the items that will be read next (see ``Template.prefetch``)."""
        self.template.prefetch([self.records[index] for index in indexes])


def example_prompts(dataset: PromptDataset) -> list[EncodedPrompt]:
    """Two prompts of the dataset, their images shrunk to a few pixels: the first that has an image (or simply the
    first), and the last."""
    records = dataset.records
    first = next((index for index, record in enumerate(records) if record.images), 0)

    def encode(indexes: Sequence[int]) -> list[EncodedPrompt]:
        return [dataset.template.encode_prompt(_with_small_images(records[index])) for index in indexes]

    return dataset.replacements.read([first, len(records) - 1], encode)


def prompt_lengths(dataset: PromptDataset) -> tuple[int, int]:
    """Tokens of the shortest and of the longest prompt that the template has checked. If it has checked none, of the
    records with the least and the most images and text."""

    def size(record: Record) -> tuple[int, int]:
        return len(record.images), sum(len(message["content"]) for message in record.messages)

    if dataset.template.prompt_lengths is not None:
        return dataset.template.prompt_lengths
    ends = min(dataset.records, key=size), max(dataset.records, key=size)
    shortest, longest = (len(dataset.template.encode_prompt(record).input_ids) for record in ends)
    return shortest, longest


def _with_small_images(record: Record) -> Record:
    """The record with a thumbnail in place of each image, so that it takes the fewest tokens that an image can have."""
    try:
        return replace(record, images=tuple(map(_thumbnail, record.images)))
    except UserError as error:
        raise UserError(f"{record.source}: {error}") from error


def _thumbnail(source: ImageSource) -> ImageSource:
    image = open_image(source)
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    stream = io.BytesIO()
    image.resize((max(image.width, SMALLEST), max(image.height, SMALLEST))).save(stream, "PNG")
    return ImageSource(f"a thumbnail of {source.name}", data=stream.getvalue())


class PromptOrder(Sampler[int]):
    """A new permutation of ``length`` prompts per epoch, in which every block of ``block`` prompts is repeated.

    Without ``shuffles`` every epoch has the data set's own order. ``block`` is the number of prompts of one rollout
    over all processes, which serves one optimizer step or several. With ``repeats`` = num_iterations, a rollout is used
    that many times in succession. With ``whole_blocks``, or ``repeats`` above 1, a last block that is too short is
    filled from the permutation's beginning, since its steps would otherwise get prompts of another rollout.
    """

    def __init__(
        self,
        length: int,
        seed: int,
        block: int = 1,
        repeats: int = 1,
        shuffles: bool = True,
        whole_blocks: bool = False,
    ) -> None:
        self.length, self.seed, self.block, self.repeats = length, seed, block, repeats
        self.shuffles, self.whole_blocks = shuffles, whole_blocks or repeats > 1
        self.epoch = 0
        self.drawn = 0  # places of this epoch that have been yielded

    def set_epoch(self, epoch: int) -> None:
        """Choose the permutation of an epoch. Called at the start of every epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self._distinct() * self.repeats

    def __iter__(self) -> Iterator[int]:
        self.drawn = 0
        for index in self._places(self.epoch).tolist():
            self.drawn += 1
            yield index

    def ahead(self, count: int, size: int, process: int = 0, processes: int = 1) -> list[int]:
        """Indexes in the next ``count`` batches of ``size`` prompts of a process.

        Batches are dealt out to the processes in turn. They continue into the next epoch.
        """
        indexes: list[int] = []
        for epoch, drawn in ((self.epoch, self.drawn), (self.epoch + 1, 0)):
            if count > 0:
                places = self._places(epoch)[drawn:]
                starts = range(process * size, len(places), processes * size)[:count]
                indexes += [index for start in starts for index in places[start : start + size].tolist()]
                count -= len(starts)
        return indexes

    def _places(self, epoch: int) -> np.ndarray:
        order = np.arange(self.length)
        if self.shuffles:
            order = np.random.default_rng((self.seed, epoch)).permutation(self.length)
        order = np.resize(order, self._distinct())
        return order if self.repeats == 1 else order.reshape(-1, self.block).repeat(self.repeats, axis=0).ravel()

    def _distinct(self) -> int:
        """Number of places of an epoch before repetition."""
        return -(-self.length // self.block) * self.block if self.whole_blocks else self.length

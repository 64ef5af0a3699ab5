"""What a trainer's data loader yields: prompts in an order that is a function of (seed, epoch) alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Dataset, Sampler

from swift.llm.dataset import Record
from swift.llm.template import EncodedPrompt
from swift.llm.templates import Template


@dataclass(frozen=True)
class PromptItem:
    """One question: where it stands in the dataset, its record, and the record as model input."""

    index: int
    record: Record
    prompt: EncodedPrompt


class PromptDataset(Dataset):
    """Records encoded on access, so that images are decoded in data loader workers."""

    def __init__(self, records: Sequence[Record], template: Template) -> None:
        self.records = records
        self.template = template

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> PromptItem:
        record = self.records[index]
        return PromptItem(index, record, self.template.encode_prompt(record))


def example_prompts(dataset: PromptDataset) -> list[EncodedPrompt]:
    """Two of the dataset's prompts: the first with an image, where one has any, and the last."""
    first = next((index for index, record in enumerate(dataset.records) if record.images), 0)
    return [dataset[first].prompt, dataset[len(dataset) - 1].prompt]


class PromptOrder(Sampler[int]):
    """A fresh permutation of ``length`` prompts each epoch; every run of ``block`` prompts comes ``repeats`` times.

    ``block`` is the prompts of one optimizer step over all processes, so that with ``repeats`` = num_iterations a
    batch of rollouts is used that many times in a row. A last block that falls short is then filled from the
    permutation's beginning, since its repeats would otherwise share a step.
    """

    def __init__(self, length: int, seed: int, block: int = 1, repeats: int = 1) -> None:
        self.length, self.seed, self.block, self.repeats = length, seed, block, repeats
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the permutation; the data loader calls it at the start of every epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self._distinct() * self.repeats

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.length)
        order = np.resize(order, self._distinct())
        for start in range(0, len(order), self.block):
            for _ in range(self.repeats):
                yield from order[start : start + self.block].tolist()

    def _distinct(self) -> int:
        """Places of an epoch before repetition."""
        return self.length if self.repeats == 1 else -(-self.length // self.block) * self.block

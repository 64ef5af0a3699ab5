"""Questions about the same images, trained in one row that holds the images once.

An X-ray is 500 to 3,000 tokens long and comes with several questions. A row for each question would spend most of its
work on copies of the image. Here the tokens that all prompts of a group begin with are the prompt of a packed row. The
remainder of each prompt and its solution form a completion in that row, of which only the solution is learned. The loss
equals that of separate rows (`swift.engine.packing`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from swift.engine.batch import Completions, PromptBatch, collate_completions, collate_prompts
from swift.llm.dataset import Record, image_placeholders
from swift.llm.template.protocol import EncodedPrompt, Template
from swift.trainers.data import PromptDataset, PromptItem, Replacements


class QuestionGroups(Dataset):
    """Records in groups of up to ``size`` that share their images. Items are lists of PromptItem.

    Groups are in the order of their first records. A record without images forms a group of its own, and so does a
    record that places its images within its text.
    """

    def __init__(self, records: Sequence[Record], template: Template, size: int) -> None:
        self.prompts = PromptDataset(records, template)
        self.groups = group_records(records, size)
        # A group is replaced as a whole, because its questions share images.
        self.replacements = Replacements(len(self.groups))

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, index: int) -> list[PromptItem]:
        return self.items([index])[0]

    def items(self, indexes: Sequence[int]) -> list[list[PromptItem]]:
        """The groups at ``indexes``, with all their images decoded in parallel."""
        return self.replacements.read(indexes, self._encode)

    def _encode(self, indexes: Sequence[int]) -> list[list[PromptItem]]:
        items = iter(self.prompts.encode(self._rows(indexes)))
        return [[next(items) for _ in self.groups[index]] for index in indexes]

    __getitems__ = items  # called by a data loader to read a batch

    def prefetch(self, indexes: Iterable[int]) -> None:
        """Announce the groups that will be read next (see ``EncodesAhead.prefetch``)."""
        self.prompts.prefetch(self._rows(indexes))

    def _rows(self, indexes: Iterable[int]) -> list[int]:
        return [row for index in indexes for row in self.groups[index]]


def group_records(records: Sequence[Record], size: int) -> list[list[int]]:
    """Group the positions of ``records`` as described in `QuestionGroups`."""
    groups: list[list[int]] = []
    open_groups: dict[tuple[str, ...], list[int]] = {}
    for row, record in enumerate(records):
        key = tuple(source.key for source in record.images)
        alone = not key or image_placeholders(record.messages)
        group = None if alone else open_groups.get(key)
        if group is None or len(group) == size:
            group = []
            groups.append(group)
            if not alone:
                open_groups[key] = group
        group.append(row)
    return groups


def collate_groups(
    groups: Sequence[Sequence[PromptItem]], template: Template, device: torch.device | str = "cpu"
) -> tuple[PromptBatch, Completions, Tensor]:
    """Collate groups of prompts into packed rows.

    Returns the common beginnings of the prompts of each group [B], the remainders of the prompts followed by their
    solutions [N = B * G], and a mask of the solutions' tokens, bool [N, C], which are the tokens to learn. A group
    smaller than the largest is filled up with completions of no token.
    """
    size = max(map(len, groups))
    shared: list[EncodedPrompt] = []
    rows: list[list[int]] = []
    question_lengths: list[int] = []  # tokens of each row that belong to its question
    for group in groups:
        prompts = [item.prompt.input_ids.tolist() for item in group]
        common = _common_length(prompts)
        first = group[0].prompt
        shared.append(EncodedPrompt(first.input_ids[:common], first.images, first.text))
        for item, prompt in zip(group, prompts, strict=True):
            rows.append(prompt[common:] + template.encode_completion(item.record.solution))
            question_lengths.append(len(prompt) - common)
        for _ in range(size - len(group)):
            rows.append([])
            question_lengths.append(0)
    completions = collate_completions(rows, template.pad_token_id, device)
    columns = torch.arange(completions.ids.shape[1], device=device)
    question_mask = columns < torch.tensor(question_lengths, device=device)[:, None]
    return collate_prompts(shared, template.pad_token_id, device), completions, completions.mask & ~question_mask


def _common_length(prompts: Sequence[list[int]]) -> int:
    """Number of leading tokens that all prompts have in common."""
    shortest = min(map(len, prompts))
    differing = (place for place in range(shortest) if len({prompt[place] for prompt in prompts}) > 1)
    return next(differing, shortest)

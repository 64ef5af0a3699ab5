"""Questions about the same images, trained in one row that holds the images once.

An X-ray is 500 to 3,000 tokens and comes with several questions, so a row for each question would spend most of its
work on copies of the image. Here the tokens that the prompts of a group share are the prompt of a packed row; the rest
of each prompt and its solution are one of the completions of that row, of which only the solution is learned. The loss
is that of separate rows (`swift.engine.packing`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from swift.engine.batch import Completions, PromptBatch, collate_completions, collate_prompts
from swift.llm.dataset import Record, image_placeholders
from swift.llm.template.protocol import EncodedPrompt, Template
from swift.trainers.data import PromptDataset, PromptItem


class QuestionGroups(Dataset):
    """Records in groups of up to ``size`` that share their images; items are lists of PromptItem.

    Groups are in the order of their first records. A record that places its images in its text stays alone, and so
    does one without images.
    """

    def __init__(self, records: Sequence[Record], template: Template, size: int) -> None:
        self.prompts = PromptDataset(records, template)
        self.groups = group_records(records, size)

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, index: int) -> list[PromptItem]:
        return self.items([index])[0]

    def items(self, indexes: Sequence[int]) -> list[list[PromptItem]]:
        """The groups at ``indexes``, all their images decoded side by side."""
        items = iter(self.prompts.items(self._rows(indexes)))
        return [[next(items) for _ in self.groups[index]] for index in indexes]

    __getitems__ = items  # what a data loader calls for a batch

    def prefetch(self, indexes: Iterable[int]) -> None:
        """Announce what will be asked for next (see ``EncodesAhead.prefetch``)."""
        self.prompts.prefetch(self._rows(indexes))

    def _rows(self, indexes: Iterable[int]) -> list[int]:
        return [row for index in indexes for row in self.groups[index]]


def group_records(records: Sequence[Record], size: int) -> list[list[int]]:
    """Positions of records, grouped as `QuestionGroups` tells."""
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
    """What the prompts of each group share [B], the rest of them with their solutions [N = B * G], and which tokens of
    the latter are learned, bool [N, C]. Groups smaller than the largest are filled with completions of no token."""
    size = max(map(len, groups))
    shared: list[EncodedPrompt] = []
    rows: list[list[int]] = []
    given: list[int] = []  # tokens of each row that belong to its question
    for group in groups:
        prompts = [item.prompt.input_ids.tolist() for item in group]
        common = _common_length(prompts)
        first = group[0].prompt
        shared.append(EncodedPrompt(first.input_ids[:common], first.images, first.text))
        for item, prompt in zip(group, prompts, strict=True):
            rows.append(prompt[common:] + template.encode_completion(item.record.solution))
            given.append(len(prompt) - common)
        for _ in range(size - len(group)):
            rows.append([])
            given.append(0)
    completions = collate_completions(rows, template.pad_token_id, device)
    asked = torch.arange(completions.ids.shape[1], device=device) < torch.tensor(given, device=device)[:, None]
    return collate_prompts(shared, template.pad_token_id, device), completions, completions.mask & ~asked


def _common_length(prompts: Sequence[list[int]]) -> int:
    """How many leading tokens all prompts share."""
    shortest = min(map(len, prompts))
    differing = (place for place in range(shortest) if len({prompt[place] for prompt in prompts}) > 1)
    return next(differing, shortest)

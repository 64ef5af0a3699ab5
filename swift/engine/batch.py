"""Records that pass between rollout, rewards and scoring: batches of prompts and of completions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from swift.llm.images.protocol import Picture
from swift.llm.template.protocol import EncodedPrompt


@dataclass(frozen=True)
class PromptBatch:
    """B prompts, left-padded, with the images of each.

    ``embeds`` holds the input embeddings of the prompts, image features included. It is set if no parameter behind the
    embeddings is trained. They are then computed once per step and shared by rollout, reference and policy.
    """

    input_ids: Tensor  # [B, P] long
    mask: Tensor  # [B, P] bool
    pictures: tuple[tuple[Picture, ...], ...]  # [B], in the order of their places in the prompt
    embeds: Tensor | None = None  # [B, P, H]

    def __post_init__(self) -> None:
        if self.input_ids.shape != self.mask.shape or len(self.pictures) != len(self.input_ids):
            raise ValueError(f"prompt ids {tuple(self.input_ids.shape)} do not fit mask {tuple(self.mask.shape)}")
        if not bool(self.mask[:, -1].all()):
            raise ValueError("prompts are padded on the left: the last column must hold a token of each prompt")

    def __len__(self) -> int:
        return len(self.input_ids)

    def select(self, rows: Sequence[int]) -> PromptBatch:
        """The prompts at ``rows``, in that order. Columns that are padding in all of them are dropped."""
        rows = list(rows)
        mask = self.mask[rows]
        used = slice(int(mask.int().argmax(dim=1).min()), None)
        return PromptBatch(
            self.input_ids[rows][:, used],
            mask[:, used],
            tuple(self.pictures[row] for row in rows),
            None if self.embeds is None else self.embeds[rows][:, used],
        )

    def repeat(self, repeats: int) -> PromptBatch:
        """A batch in which each prompt comes ``repeats`` times in succession."""
        return self.select([row for row in range(len(self)) for _ in range(repeats)])

    def with_embeds(self, embeds: Tensor | None) -> PromptBatch:
        """The same prompts with their embeddings [B, P, H] in place of their images."""
        return PromptBatch(self.input_ids, self.mask, ((),) * len(self), embeds)

    def image_inputs(self) -> dict[str, Tensor]:
        """Concatenate the pictures of all prompts into the model's image arguments; empty when there are none."""
        pictures = [picture for row in self.pictures for picture in row]
        return pictures[0].collate(pictures) if pictures else {}

    @property
    def lengths(self) -> Tensor:
        """Number of tokens of each prompt, [B]."""
        return self.mask.sum(dim=1)

    @property
    def order(self) -> Tensor:
        """Each token's number in its prompt [B, P], 0 at the first token and in its padding."""
        return (self.mask.cumsum(dim=1) - 1).clamp(min=0)


def collate_prompts(prompts: Sequence[EncodedPrompt], pad_id: int, device: torch.device | str = "cpu") -> PromptBatch:
    """Left-pad encoded prompts into one batch on ``device``."""
    width = max(len(prompt.input_ids) for prompt in prompts)
    input_ids = torch.full((len(prompts), width), pad_id, dtype=torch.long)
    mask = torch.zeros(len(prompts), width, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        input_ids[row, width - len(prompt.input_ids) :] = prompt.input_ids
        mask[row, width - len(prompt.input_ids) :] = True
    pictures = tuple(tuple(picture.to(device) for picture in prompt.images) for prompt in prompts)
    return PromptBatch(input_ids.to(device), mask.to(device), pictures)


def concat_prompts(first: PromptBatch, second: PromptBatch) -> PromptBatch:
    """The prompts of both batches, padded to a common width."""
    width = max(first.mask.shape[1], second.mask.shape[1])

    def both(name: str) -> Tensor:
        return torch.cat([_pad_left(getattr(batch, name), width) for batch in (first, second)])

    return PromptBatch(
        both("input_ids"),
        both("mask"),
        first.pictures + second.pictures,
        None if first.embeds is None or second.embeds is None else both("embeds"),
    )


def _pad_left(value: Tensor, width: int) -> Tensor:
    padding = value.new_zeros(len(value), width - value.shape[1], *value.shape[2:])
    return torch.cat([padding, value], dim=1)


@dataclass(frozen=True)
class Completions:
    """N sampled completions, right-padded. Those of one group are adjacent. A finished one ends with its stop token."""

    ids: Tensor  # [N, C] long
    lengths: Tensor  # [N] long, stop token included
    finished: Tensor  # [N] bool: ended by a stop token, not by the length limit

    def __post_init__(self) -> None:
        if not (len(self.ids) == len(self.lengths) == len(self.finished)):
            raise ValueError(f"{len(self.ids)} completions, {len(self.lengths)} lengths, {len(self.finished)} flags")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def mask(self) -> Tensor:
        """True at the tokens of a completion, False in padding, [N, C]."""
        return torch.arange(self.ids.shape[1], device=self.ids.device) < self.lengths[:, None]

    def select(self, rows: Sequence[int]) -> Completions:
        """The completions at ``rows``, in that order. Columns that are padding in all of them are dropped."""
        rows = list(rows)
        lengths = self.lengths[rows]
        return Completions(self.ids[rows][:, : int(lengths.max())], lengths, self.finished[rows])

    def token_lists(self) -> list[list[int]]:
        """The ids of each completion without padding."""
        return [row[:length] for row, length in zip(self.ids.tolist(), self.lengths.tolist(), strict=True)]


def concat_completions(first: Completions, second: Completions) -> Completions:
    """The completions of both, padded to a common length."""
    length = max(first.ids.shape[1], second.ids.shape[1])
    ids = [nn.functional.pad(part.ids, (0, length - part.ids.shape[1])) for part in (first, second)]
    return Completions(
        torch.cat(ids), torch.cat([first.lengths, second.lengths]), torch.cat([first.finished, second.finished])
    )


def collate_completions(
    rows: Sequence[Sequence[int] | Tensor], pad_id: int, device: torch.device | str = "cpu"
) -> Completions:
    """Right-pad rows of token ids into one record. All completions count as finished."""
    ids = torch.full((len(rows), max(map(len, rows))), pad_id, dtype=torch.long)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.as_tensor(row)
    lengths = torch.tensor([len(row) for row in rows])
    return Completions(ids.to(device), lengths.to(device), torch.ones(len(rows), dtype=torch.bool, device=device))

"""Rollouts by transformers' own `generate`, for models whose cache cannot be shared by a group. Each prompt is read
once per completion."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from swift.engine.batch import PromptBatch
from swift.engine.model_inputs import token_types
from swift.engine.rollout.choosing import Chooser, Sampling


class ChosenToken(LogitsProcessor):
    """Leaves the token that ``chooser`` takes. ``prompt_width`` is the number of columns before the first new token."""

    def __init__(self, chooser: Chooser, prompt_width: int) -> None:
        self.chooser, self.prompt_width = chooser, prompt_width

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        rows = torch.arange(len(scores), device=scores.device)
        chosen = self.chooser(scores, rows, input_ids.shape[1] - self.prompt_width)
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen[:, None], 0)


def decode_by_library(
    model: nn.Module, prompts: PromptBatch, group_size: int, sampling: Sampling, chooser: Chooser, *, synced: bool
) -> Tensor:
    """The tokens [N, C] that ``chooser`` takes, including any after a stop token. Raises ValueError for prompts that
    have embeddings in place of their images, which `generate` would not see."""
    if prompts.embeds is not None:
        raise ValueError("prompts have embeddings, and transformers' loop reads their images; pass them with images")
    rows = prompts.repeat(group_size)
    with own_settings_aside(model):
        output = model.generate(
            rows.input_ids,
            attention_mask=rows.mask.long(),
            generation_config=generation_config(sampling, sampling.max_new_tokens),
            logits_processor=LogitsProcessorList([ChosenToken(chooser, rows.input_ids.shape[1])]),
            synced_gpus=synced,
            **rows.image_inputs(),
            **token_types(model, rows.input_ids),
        )
    return output[:, rows.input_ids.shape[1] :]


def generation_config(sampling: Sampling, new_tokens: int) -> GenerationConfig:
    """Settings for `generate` to take the tokens that the logits processors choose, up to ``new_tokens`` or a stop."""
    return GenerationConfig(
        max_new_tokens=new_tokens,
        do_sample=False,
        eos_token_id=list(sampling.stop_token_ids),
        pad_token_id=sampling.pad_token_id,
    )


@contextmanager
def own_settings_aside(model: nn.Module) -> Iterator[None]:
    """Ignore the checkpoint's generation_config.json within the block.

    `generate` takes from it all settings that a call does not give: penalties, forced and suppressed tokens, a kind of
    cache. Completions would then be sampled from another distribution than the one that is scored.
    """
    own_settings, model.generation_config = model.generation_config, GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own_settings

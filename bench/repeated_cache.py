"""The rollout as it was before groups shared the memory of their prompt: the slow reference of benchmarks and tests.

All prompt tokens but the last are read once, their keys and values are repeated for each completion, and transformers'
`generate` continues from there. It copies the whole cache to append one token.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import Cache, LogitsProcessorList

from swift.engine.batch import Completions, PromptBatch
from swift.engine.model_inputs import next_positions, prompt_positions, token_types
from swift.engine.rollout.choosing import Chooser, PartChooser, Sampling, TokenChooser
from swift.engine.rollout.library_rollout import ChosenToken, generation_config, own_settings_aside
from swift.engine.sampling import trim

STAGE = 16  # tokens after which evaluation let finished rows leave


@torch.no_grad()
def decode_repeated(
    model: nn.Module, prompts: PromptBatch, group_size: int, sampling: Sampling, chooser: Chooser
) -> Tensor:
    """The tokens [N, C] that ``chooser`` takes, including any after a stop token. All rows stay to the end."""
    rows = prompts.with_embeds(None).repeat(group_size)
    with own_settings_aside(model):
        output = model.generate(
            rows.input_ids,
            attention_mask=rows.mask.long(),
            generation_config=generation_config(sampling, sampling.max_new_tokens),
            logits_processor=LogitsProcessorList([ChosenToken(chooser, rows.input_ids.shape[1])]),
            past_key_values=repeated_cache(model, prompts, group_size),
        )
    return output[:, rows.input_ids.shape[1] :]


def generate_repeated(
    model: nn.Module, prompts: PromptBatch, group_size: int, sampling: Sampling, uniforms: Tensor | None = None
) -> Completions:
    """Sample like `swift.engine.sampling.generate`, as training did before."""
    chooser = TokenChooser(sampling, uniforms, prompts.input_ids, group_size)
    with torch.no_grad():
        return trim(decode_repeated(model, prompts, group_size, sampling, chooser), sampling.stop_token_ids)


@torch.no_grad()
def generate_in_stages(
    model: nn.Module, prompts: PromptBatch, group_size: int, sampling: Sampling, uniforms: Tensor | None = None
) -> Completions:
    """Sample like `swift.engine.sampling.generate`, as evaluation did before: finished rows leave after each stage.

    It is for models like Phi-4, in which the position of a token is the number of tokens before it.
    """
    cache = repeated_cache(model, prompts, group_size)
    ids = prompts.input_ids.repeat_interleave(group_size, dim=0)
    mask = prompts.mask.repeat_interleave(group_size, dim=0)
    width, open_rows = ids.shape[1], torch.arange(len(ids), device=ids.device)
    chooser = TokenChooser(sampling, uniforms, prompts.input_ids, group_size)
    tokens = ids.new_full((len(ids), sampling.max_new_tokens), sampling.pad_token_id)
    done = 0
    while done < sampling.max_new_tokens and len(open_rows):
        part = PartChooser(chooser, open_rows, done)
        with own_settings_aside(model):
            ids = model.generate(
                ids,
                attention_mask=mask.long(),
                generation_config=generation_config(sampling, min(STAGE, sampling.max_new_tokens - done)),
                logits_processor=LogitsProcessorList([ChosenToken(part, width + done)]),
                past_key_values=cache,
            )
        new = ids[:, width + done :]
        tokens[open_rows, done : done + new.shape[1]] = new
        done += new.shape[1]
        stopped = torch.isin(new, torch.tensor(sampling.stop_token_ids, device=ids.device)).any(dim=1)
        unfinished = (~stopped).nonzero().squeeze(1)
        cache.batch_select_indices(unfinished)
        mask = torch.cat([mask, torch.ones_like(new, dtype=torch.bool)], dim=1)
        ids, mask, open_rows = ids[unfinished], mask[unfinished], open_rows[unfinished]
    return trim(tokens, sampling.stop_token_ids)


def repeated_cache(model: nn.Module, prompts: PromptBatch, group_size: int) -> Cache:
    """The cache of all prompt tokens but the last, repeated ``group_size`` times per prompt."""
    images = prompts.image_inputs()
    positions = prompt_positions(model, prompts.input_ids, prompts.order, prompts.mask, images)
    if prompts.embeds is not None:
        inputs = {"inputs_embeds": prompts.embeds[:, :-1]}
    else:
        input_ids = prompts.input_ids[:, :-1]
        inputs = {"input_ids": input_ids, **token_types(model, input_ids), **images}
    cache = model(
        **inputs,
        attention_mask=prompts.mask[:, :-1].long(),
        position_ids=positions[..., :-1],
        use_cache=True,
        logits_to_keep=1,
    ).past_key_values
    cache.batch_repeat_interleave(group_size)
    core = getattr(model, "model", None)
    if hasattr(core, "rope_deltas"):  # where images are on a grid, the next position is not the number of tokens
        deltas = next_positions(positions, prompts.mask) - prompts.lengths
        core.rope_deltas = deltas.repeat_interleave(group_size)[:, None]
    return cache

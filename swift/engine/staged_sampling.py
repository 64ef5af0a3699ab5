"""Decoding in stages. After each stage the finished completions leave the batch, so the others no longer wait for them.

A batch takes as long as its longest completion. In training this hardly matters, since sampled answers to one question
have similar lengths. An evaluation puts sixty questions into a batch, and one answer that does not end would otherwise
keep all rows computing.
"""

from __future__ import annotations

import torch
from torch import nn

from swift.engine.batch import Completions, PromptBatch
from swift.engine.sampling import (
    NanWatch,
    Sampling,
    generation_config,
    own_settings_aside,
    prefill,
    sampling_processors,
    trim,
)

STAGE = 16  # tokens of a stage


@torch.no_grad()
def generate_shrinking(
    model: nn.Module, prompts: PromptBatch, group_size: int, sampling: Sampling, uniforms: torch.Tensor | None = None
) -> Completions:
    """Sample like :func:`swift.engine.sampling.generate`, with equal results up to rounding of the logits.

    It is for models like Phi-4, in which the position of a token is the number of tokens before it.
    """
    cache = prefill(model, prompts, group_size)
    ids = prompts.input_ids.repeat_interleave(group_size, dim=0)
    mask = prompts.mask.repeat_interleave(group_size, dim=0)
    width, open_rows = ids.shape[1], torch.arange(len(ids), device=ids.device)
    stops = torch.tensor(sampling.stop_token_ids, device=ids.device)
    tokens = ids.new_full((len(ids), sampling.max_new_tokens), sampling.pad_token_id)
    done, watch = 0, NanWatch()
    while done < sampling.max_new_tokens and len(open_rows):
        drawn = None if uniforms is None else uniforms[open_rows.cpu()]
        with own_settings_aside(model):
            ids = model.generate(
                ids,
                attention_mask=mask.long(),
                generation_config=generation_config(sampling, min(STAGE, sampling.max_new_tokens - done)),
                logits_processor=sampling_processors(sampling, drawn, prompts, watch),
                past_key_values=cache,
            )
        new = ids[:, width + done :]
        tokens[open_rows, done : done + new.shape[1]] = new
        done += new.shape[1]
        unfinished = (~torch.isin(new, stops).any(dim=1)).nonzero().squeeze(1)
        cache.batch_select_indices(unfinished)
        mask = torch.cat([mask, torch.ones_like(new, dtype=torch.bool)], dim=1)
        ids, mask, open_rows = ids[unfinished], mask[unfinished], open_rows[unfinished]
    watch.check()
    return trim(tokens, sampling.stop_token_ids)

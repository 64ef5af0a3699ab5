"""Decoding in stages, after each of which the finished answers leave the batch: the rest no longer carry them along.

A batch is as slow as its longest answer. In training that hardly matters, since sampled answers to one question are of
like length; an evaluation puts sixty questions together, and one that never stops would keep all of them waiting.
"""

from __future__ import annotations

import torch
from torch import nn

from swift.engine.batch import Completions, PromptBatch
from swift.engine.sampling import (
    Sampling,
    generation_config,
    own_settings_aside,
    prefill,
    sampling_processors,
    trim,
)

STAGE = 16  # tokens between two looks at who is done


@torch.no_grad()
def generate_shrinking(
    model: nn.Module, prompts: PromptBatch, group_size: int, sampling: Sampling, uniforms: torch.Tensor | None = None
) -> Completions:
    """What :func:`swift.engine.sampling.generate` returns, up to rounding of the logits. For models whose
    position is the number of tokens before it, as Phi-4's is."""
    cache = prefill(model, prompts, group_size)
    ids = prompts.input_ids.repeat_interleave(group_size, dim=0)
    mask = prompts.mask.repeat_interleave(group_size, dim=0)
    width, rows = ids.shape[1], torch.arange(len(ids), device=ids.device)
    stops = torch.tensor(sampling.stop_token_ids, device=ids.device)
    found = ids.new_full((len(ids), sampling.max_new_tokens), sampling.pad_token_id)
    done = 0
    while done < sampling.max_new_tokens and len(rows):
        drawn = None if uniforms is None else uniforms[rows.cpu()]
        with own_settings_aside(model):
            ids = model.generate(
                ids,
                attention_mask=mask.long(),
                generation_config=generation_config(sampling, min(STAGE, sampling.max_new_tokens - done)),
                logits_processor=sampling_processors(sampling, drawn, prompts),
                past_key_values=cache,
            )
        new = ids[:, width + done :]
        found[rows, done : done + new.shape[1]] = new
        done += new.shape[1]
        open_rows = (~torch.isin(new, stops).any(dim=1)).nonzero().squeeze(1)
        cache.batch_select_indices(open_rows)
        mask = torch.cat([mask, torch.ones_like(new, dtype=torch.bool)], dim=1)
        ids, mask, rows = ids[open_rows], mask[open_rows], rows[open_rows]
    return trim(found, sampling.stop_token_ids)

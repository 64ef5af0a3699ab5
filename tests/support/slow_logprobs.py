"""Log-probabilities computed the slow, obvious way, to test the fast ways against."""

from __future__ import annotations

import torch

from swift.engine.batch import Completions, PromptBatch


def logps_one_by_one(
    model: torch.nn.Module, prompts: PromptBatch, completions: Completions, temperature: float
) -> torch.Tensor:
    """Log-probabilities [N, C] from one unpadded forward per completion, full logits and log_softmax.

    Positions after the end of a completion are 0.
    """
    size = len(completions) // len(prompts)
    rows = []
    for index, ids in enumerate(completions.token_lists()):
        prompt = prompts.select([index // size])
        text = prompt.input_ids[prompt.mask][None]
        logits = model(torch.cat([text, torch.tensor([ids])], dim=1), **prompt.image_inputs()).logits
        logps = (logits[0, text.shape[1] - 1 : -1] / temperature).log_softmax(dim=-1)
        chosen = logps[torch.arange(len(ids)), torch.tensor(ids)]
        rows.append(torch.nn.functional.pad(chosen, (0, completions.ids.shape[1] - len(ids))))
    return torch.stack(rows)

"""Log-probabilities of completions under a model, packed or plain, through the chunked head."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from swift.llm.policy import input_embeddings, output_head
from swift.trainers.rlhf_trainer.batch import Completions, PromptBatch
from swift.trainers.rlhf_trainer.chunked_head import Choices, HeadCall, scoring_head
from swift.trainers.rlhf_trainer.packing import Layout, packed_layout, plain_layout

DENSE_MASK_ATTENTION = ("sdpa", "eager")


@dataclass(frozen=True)
class Scores:
    """Per-token results of one scoring pass; 0 in padding."""

    logps: Tensor  # [N, C] float32, natural logarithm, at the sampling temperature
    entropy: Tensor | None  # [N, C] float32 nats, without gradient; None unless asked for
    choices: Choices | None = None  # of all T tokens, completion by completion; None unless asked for


def can_pack(model: nn.Module) -> bool:
    """Whether ``model`` takes a per-token attention mask, so that the packed layout computes what the plain one does.

    True for Phi-4-multimodal with an attention that accepts a dense mask; everything else takes the plain path.
    """
    config = model.config
    return config.model_type == "phi4_multimodal" and config._attn_implementation in DENSE_MASK_ATTENTION


def score(
    model: nn.Module,
    prompts: PromptBatch,
    completions: Completions,
    *,
    temperature: float = 1.0,
    packed: bool = True,
    with_entropy: bool = False,
    alternatives: int | None = None,
) -> Scores:
    """Score every token of ``completions`` (N = B * G, groups adjacent) after its prompt. ``alternatives`` asks for
    ranks and that many most likely tokens.

    ``model`` may be wrapped for data parallelism. Differentiable with respect to whatever requires gradients.
    """
    unwrapped = getattr(model, "module", model)
    layout: Callable[[PromptBatch, Completions], Layout] = packed_layout if packed else plain_layout
    plan = layout(prompts, completions)
    call = HeadCall(plan.predictor_rows, plan.targets, temperature, with_entropy, alternatives)
    with scoring_head(output_head(unwrapped), call):
        flat = model(
            **_model_inputs(unwrapped, prompts, plan),
            attention_mask=_mask_for(unwrapped, plan.attention_mask),
            position_ids=plan.position_ids,
            use_cache=False,
        ).logits
    logps = _scatter(flat, completions.mask)
    entropy = None if call.entropy is None else _scatter(call.entropy, completions.mask)
    return Scores(logps, entropy, call.choices)


def _model_inputs(model: nn.Module, prompts: PromptBatch, plan: Layout) -> dict[str, Tensor]:
    prompts = prompts.repeat(plan.repeats)
    if prompts.embeds is not None:
        suffix = input_embeddings(model)(plan.suffix_ids).to(prompts.embeds.dtype)
        return {"inputs_embeds": torch.cat([prompts.embeds, suffix], dim=1)}
    return {"input_ids": torch.cat([prompts.input_ids, plan.suffix_ids], dim=1), **prompts.images}


def _mask_for(model: nn.Module, mask: Tensor) -> Tensor:
    """Eager attention adds its mask to the scores; SDPA takes booleans."""
    if mask.ndim == 2 or model.config._attn_implementation != "eager":
        return mask
    return torch.zeros_like(mask, dtype=model.dtype).masked_fill_(~mask, torch.finfo(model.dtype).min)


def _scatter(flat: Tensor, mask: Tensor) -> Tensor:
    """Flat values [T] back to [N, C], 0 where ``mask`` is False."""
    return torch.zeros(mask.shape, dtype=flat.dtype, device=flat.device).masked_scatter(mask, flat)

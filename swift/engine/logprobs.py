"""Log-probabilities of completions under a model, packed or plain, through the chunked head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from swift.engine.attention.choice import FLEX, PARTS, decoder_attention
from swift.engine.attention.masks import row_masks
from swift.engine.batch import Completions, PromptBatch
from swift.engine.chunked_head import Choices, HeadCall, scoring_head
from swift.engine.model_inputs import FULL, SLIDING, decoder_layers, prompt_positions, token_types
from swift.engine.packing import Layout, PackedRows, packed_layout, plain_layout
from swift.llm.policy import input_embeddings, output_head
from swift.utils.stages import count_work

PACKING_ATTENTION = ("sdpa", "eager", FLEX, PARTS)


@dataclass(frozen=True)
class LogProbs:
    """Per-token results of one scoring pass, 0 in padding."""

    logps: Tensor  # [N, C] float32, natural logarithm, at the sampling temperature
    entropy: Tensor | None  # [N, C] float32 nats, without gradient; None unless requested
    choices: Choices | None = None  # of all T tokens, completion by completion; None unless requested
    hidden: Tensor | None = None  # [T, H] that predict these tokens, without gradient; None unless requested


def why_plain(model: nn.Module) -> str | None:
    """Reason that rules out the packed layout for ``model``, from its configuration alone; None if there is none.

    `probe.py` measures afterwards if the packed layout agrees with the plain one.
    """
    attention, layers = decoder_attention(model), decoder_layers(model)
    if attention not in PACKING_ATTENTION:
        return f"{attention} takes no per-token mask"
    if other := sorted(layers.kinds - {FULL, SLIDING}):
        return f"its {other[0]} layers take no per-token mask"
    return None


def completion_logprobs(
    model: nn.Module,
    prompts: PromptBatch,
    completions: Completions,
    *,
    temperature: float = 1.0,
    packed: bool = True,
    with_entropy: bool = False,
    alternatives: int | None = None,
    with_hidden: bool = False,
) -> LogProbs:
    """Score every token of ``completions`` (N = B * G, groups adjacent) after its prompt.

    ``model`` may be wrapped for data parallelism. ``packed`` chooses one row per group over one row per completion. If
    ``alternatives`` is set, the result has ranks and that many most likely tokens. With ``with_hidden`` it has the
    hidden states. The log-probabilities are differentiable with respect to all parameters that require gradients.
    """
    unwrapped = getattr(model, "module", model)
    layout, inputs = row_inputs(unwrapped, prompts, completions, packed)
    call = HeadCall(layout.predictor_rows, layout.targets, temperature, with_entropy, alternatives, with_hidden)
    with scoring_head(output_head(unwrapped), call):
        flat = model(**inputs).logits
    logps = scatter(flat, completions.mask)
    entropy = None if call.entropy is None else scatter(call.entropy, completions.mask)
    return LogProbs(logps, entropy, call.choices, call.hidden)


def row_inputs(
    model: nn.Module, prompts: PromptBatch, completions: Completions, packed: bool
) -> tuple[Layout, dict[str, Any]]:
    """The places of tokens in rows of prompts and completions, and the arguments of the model's forward for them."""
    images = prompts.image_inputs()
    positions = prompt_positions(model, prompts.input_ids, prompts.order, prompts.mask, images)
    layout = (packed_layout if packed else plain_layout)(prompts, completions, positions)
    count_work(layout.position_ids.shape[-2:].numel(), len(layout.targets))
    mask = layout.visible
    if isinstance(mask, PackedRows):
        mask = row_masks(model, mask, prompts.input_ids)
    inputs = {
        **_model_inputs(model, prompts, images, layout),
        "attention_mask": mask,
        "position_ids": layout.position_ids,
        "use_cache": False,
    }
    return layout, inputs


def _model_inputs(model: nn.Module, prompts: PromptBatch, images: dict[str, Tensor], plan: Layout) -> dict[str, Tensor]:
    if plan.repeats > 1:
        prompts = prompts.repeat(plan.repeats)
        images = prompts.image_inputs()
    if prompts.embeds is not None:
        suffix = input_embeddings(model)(plan.suffix_ids).to(prompts.embeds.dtype)
        return {"inputs_embeds": torch.cat([prompts.embeds, suffix], dim=1)}
    input_ids = torch.cat([prompts.input_ids, plan.suffix_ids], dim=1)
    return {"input_ids": input_ids, **token_types(model, input_ids), **images}


def scatter(flat: Tensor, mask: Tensor) -> Tensor:
    """Put flat values [T] at the True places of ``mask`` [N, C], 0 elsewhere."""
    return torch.zeros(mask.shape, dtype=flat.dtype, device=flat.device).masked_scatter(mask, flat)

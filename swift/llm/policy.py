"""A policy, and what the trainer needs to know of its insides: input embeddings, head and image features."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from swift.llm.images.dynamic_hd import DynamicHDImageProcessor
from swift.llm.images.hf_processor import VisionProcessor


@dataclass(frozen=True)
class Policy:
    """A loaded model and what turns records into its inputs."""

    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    image_processor: DynamicHDImageProcessor | VisionProcessor
    base: Path  # the full folder the weights stand on
    own_head: bool = False  # the head is not the base's: it came with the adapter
    fingerprint: dict[str, str] | None = None  # of the base's weights, see base_weights.py


def input_embeddings(model: nn.Module) -> nn.Module:
    """The module that turns token ids into vectors."""
    return model.get_input_embeddings()


def output_head(model: nn.Module) -> nn.Linear:
    """The linear layer from hidden states to logits."""
    return model.get_output_embeddings()


def look_both_ways(model: nn.Module) -> None:
    """Make every layer of the vision tower attend to all patches.

    The tower is SigLIP, which is bidirectional, but transformers (5.17 to 5.23) marks its attention causal. Flash
    attention always goes by that mark, SDPA when no mask is passed, which is when no patch of a batch is padding: an
    image's features then depend on its neighbours in the batch.
    """
    for module in model.model.embed_tokens_extend.image_embed.modules():
        if hasattr(module, "is_causal"):
            module.is_causal = False


def rope_switch(model: nn.Module) -> int | None:
    """The length beyond which a model with longrope changes its frequencies; None for a model that never does."""
    config = model.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    switch = getattr(config, "original_max_position_embeddings", None)
    changes = rope.get("rope_type") == "longrope" and switch and switch < config.max_position_embeddings
    return switch if changes else None


def trainable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that require gradients, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def is_phi4(model: nn.Module) -> bool:
    """Whether the model is a Phi-4-multimodal, whose insides are known here; others are asked through transformers."""
    return model.config.model_type == "phi4_multimodal"


def embeds_prompts_frozen(model: nn.Module) -> bool:
    """Whether prompt embeddings can be computed once a step: the model is one whose embedding stage we can run alone,
    and nothing in that stage is trained."""
    if not is_phi4(model):
        return False
    stage = (model.model.embed_tokens, model.model.embed_tokens_extend)
    return not any(parameter.requires_grad for module in stage for parameter in module.parameters())


@torch.no_grad()
def prompt_embeddings(model: nn.Module, input_ids: Tensor, images: dict[str, Tensor]) -> Tensor:
    """Token embeddings [B, P, H] of ``input_ids`` [B, P] with image features in their places."""
    core = model.model
    return core.embed_tokens_extend(input_ids, core.embed_tokens(input_ids), **images)

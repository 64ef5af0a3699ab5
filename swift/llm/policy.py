"""A policy, and access to its internals: input embeddings, output head and image features."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from swift.llm.images.protocol import ImageProcessor
from swift.llm.phi4_names import NATIVE
from swift.utils.stages import staged


@dataclass(frozen=True)
class Policy:
    """A loaded model with its tokenizer and image processor."""

    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    image_processor: ImageProcessor
    base: Path  # the full folder that the weights were loaded from
    own_head: bool = False  # the head came with the adapter and differs from the base's
    fingerprint: dict[str, str] | None = None  # of the base's weights (base_weights.py)
    attn_impl: str = "auto"  # the attention that was asked for, as --attn_impl names it


def input_embeddings(model: nn.Module) -> nn.Module:
    """The module that turns token ids into vectors."""
    return model.get_input_embeddings()


def output_head(model: nn.Module) -> nn.Linear:
    """The linear layer from hidden states to logits."""
    return model.get_output_embeddings()


def decoder_layers_of(model: nn.Module) -> nn.Module:
    """The layers of the decoder, or the decoder itself if it has no list of them. Towers of images are left out."""
    decoder = model.get_decoder()
    return getattr(decoder, "layers", decoder)


def look_both_ways(model: nn.Module) -> None:
    """Make every layer of the vision tower attend to all patches.

    The tower is SigLIP, which is bidirectional, but transformers (5.17 to 5.23) marks its attention causal. Flash
    attention always obeys that mark. SDPA obeys it if no mask is passed, which is the case if no patch of a batch is
    padding. The features of an image would then depend on its neighbors in the batch.
    """
    for module in model.model.embed_tokens_extend.image_embed.modules():
        if hasattr(module, "is_causal"):
            module.is_causal = False


def skip_pooling(model: nn.Module) -> None:
    """Leave out the pooling at the end of the vision tower.

    Image features are hidden states from before it, and nothing reads its result. On a CPU in bfloat16 it would take
    5.4 GB and as long as half of the tower: with frozen weights, torch copies a matrix for every patch.
    """
    model.model.embed_tokens_extend.image_embed.img_processor.head.forward = _no_result


def _no_result(*_args: object, **_kwargs: object) -> None:
    return None


def rope_switch(model: nn.Module) -> int | None:
    """The length in tokens beyond which a model with longrope changes its frequencies; None if it never does."""
    config = model.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    switch = getattr(config, "original_max_position_embeddings", None)
    changes = rope.get("rope_type") == "longrope" and switch and switch < config.max_position_embeddings
    return switch if changes else None


def context_window(model: nn.Module) -> int | None:
    """The most tokens that the model can read, by its configuration; None if it does not say."""
    config = model.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    window = getattr(config, "max_position_embeddings", None)
    trained, factor = rope.get("original_max_position_embeddings"), rope.get("factor")
    stretched = int(trained * factor) if trained and factor else 0  # a window that YaRN and the like make larger
    return max(window, stretched) if isinstance(window, int) and window > 0 else None


def trainable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that require gradients, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def is_phi4(model: nn.Module) -> bool:
    """True for Phi-4-multimodal, whose internals are known here. Other models are used by transformers' interface."""
    return model.config.model_type == NATIVE


def embeds_prompts_frozen(model: nn.Module) -> bool:
    """True if prompt embeddings can be computed once per step: the embedding stage can run alone (Phi-4) and none of
    its parameters trains."""
    if not is_phi4(model):
        return False
    stage = (model.model.embed_tokens, model.model.embed_tokens_extend)
    return not any(parameter.requires_grad for module in stage for parameter in module.parameters())


@staged("prefill")
@torch.no_grad()
def prompt_embeddings(model: nn.Module, input_ids: Tensor, images: dict[str, Tensor]) -> Tensor:
    """Token embeddings [B, P, H] of ``input_ids`` [B, P] with image features in place of image tokens."""
    core = model.model
    return core.embed_tokens_extend(input_ids, core.embed_tokens(input_ids), **images)

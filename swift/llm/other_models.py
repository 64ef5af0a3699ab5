"""Loading vision-language models other than Phi-4: whatever `AutoModelForImageTextToText` knows, with its processor."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from swift.llm.policy import Policy
from swift.llm.vision_processor import load_processor
from swift.utils.errors import UserError

PHI4 = ("phi4_multimodal", "phi4mm")


def is_other_model(model_type: str | None) -> bool:
    """Whether ``config.json``'s model_type is that of a vision-language model that is not Phi-4."""
    return model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES and model_type not in PHI4


def load_other_model(path: Path, dtype: torch.dtype | str, attention: str, dynamic_hd: int | None = None) -> Policy:
    """The policy in a full folder. Raises UserError for one that is not whole, or not a decoder with a linear head, and
    for a ``dynamic_hd``, which is Phi-4's."""
    if dynamic_hd is not None:
        raise UserError(
            f"--dynamic_hd {dynamic_hd} is for Phi-4's tiling; the model in {path} has settings of its own in "
            "preprocessor_config.json: leave the flag out"
        )
    tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    processor = load_processor(path, tokenizer)
    return Policy(_load_weights(path, dtype, attention).eval(), tokenizer, processor, path)


def _load_weights(path: Path, dtype: torch.dtype | str, attention: str) -> nn.Module:
    try:
        config = AutoConfig.from_pretrained(path, local_files_only=True)
        model, info = AutoModelForImageTextToText.from_pretrained(
            path,
            config=config,
            dtype=dtype,
            attn_implementation=attention,
            output_loading_info=True,
            local_files_only=True,
        )
    except (OSError, SafetensorError, RuntimeError, ValueError, ImportError) as error:
        raise UserError(f"{path}: weights cannot be loaded: {str(error).splitlines()[0]}") from error
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if names := sorted(map(str, info[problem])):
            raise UserError(
                f"{path}: {len(names)} {problem.replace('_', ' ')}, e.g. {names[0]}; the folder is not whole"
            )
    if getattr(config, "is_encoder_decoder", False):
        raise UserError(f"{path}: {config.model_type} is an encoder-decoder; only decoders can be trained here")
    if not isinstance(model.get_output_embeddings(), nn.Linear):
        raise UserError(f"{path}: {config.model_type} has no linear output head; such models cannot be trained here")
    return model

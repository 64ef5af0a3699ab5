"""Loading vision-language models other than Phi-4: all that `AutoModelForImageTextToText` knows, with its processor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from swift.llm.checkpoint.base_weights import weights_fingerprint
from swift.llm.checkpoint.dtypes import weight_type
from swift.llm.checkpoint.stored_tensors import Stored, find_shards, list_tensors
from swift.llm.checkpoint.tokenizers import load_tokenizer
from swift.llm.deepspeed_configs import whole_weights
from swift.llm.images.hf_processor import load_processor
from swift.llm.phi4_names import MODEL_TYPES
from swift.llm.policy import Policy
from swift.utils.errors import UserError
from swift.utils.lines import one_line

# Settings of text models with layers that attend to the images.
CROSS_ATTENTION = ("cross_attention_layers", "cross_layer_interval", "add_cross_attention")


def is_other_model(model_type: object) -> bool:
    """True if ``model_type``, as config.json states it, is a vision-language model other than Phi-4."""
    return (
        isinstance(model_type, str)
        and model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
        and model_type not in MODEL_TYPES
    )


def load_other_model(path: Path, dtype: torch.dtype | str, attention: str, dynamic_hd: int | None = None) -> Policy:
    """The policy in a full folder. Raises UserError if the folder is incomplete, if the model is not a decoder with a
    linear head, or if ``dynamic_hd`` is given: it is a setting of Phi-4's tiling."""
    if dynamic_hd is not None:
        raise UserError(
            f"--dynamic_hd {dynamic_hd} is for Phi-4's tiling; the model in {path} has settings of its own in "
            "preprocessor_config.json: leave the flag out"
        )
    stored = list_tensors(find_shards(path))
    config = _load_config(path)
    _refuse_cross_attention(path, config)
    weight_type(path, _stated_type(config, stored) if dtype == "auto" else dtype)
    model = _load_weights(path, config, dtype, attention).eval()
    tokenizer = load_tokenizer(path, model.get_input_embeddings().weight.shape[0], as_written=False)
    processor = load_processor(path, tokenizer)
    return Policy(model, tokenizer, processor, path, fingerprint=weights_fingerprint(stored))


def _load_config(path: Path) -> PreTrainedConfig:
    try:
        return AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # values of the wrong type fail anywhere in transformers
        raise UserError(f"{path / 'config.json'} describes no model: {one_line(error)}; copy it again") from error


def _refuse_cross_attention(path: Path, config: PreTrainedConfig) -> None:
    """Raise UserError for models such as Mllama, whose text layers look at the images through cross attention: their
    masks belong to whole prompts, and a prompt here is made of images that are prepared one by one."""
    for part in (config, config.get_text_config()):
        if any(getattr(part, name, None) for name in CROSS_ATTENTION):
            raise UserError(
                f"{path}: {config.model_type} looks at images by cross attention; only models with image tokens in "
                "the text can be trained and evaluated here"
            )


def _stated_type(config: PreTrainedConfig, stored: Mapping[str, Stored]) -> object:
    """The type that config.json states, else that of most stored weights."""
    stated = getattr(config, "dtype", None)
    if stated is not None:
        return stated
    kinds = Counter(tensor.dtype for tensor in stored.values() if tensor.dtype.is_floating_point)
    return kinds.most_common(1)[0][0] if kinds else None


def _load_weights(path: Path, config: PreTrainedConfig, dtype: torch.dtype | str, attention: str) -> nn.Module:
    try:
        with whole_weights():
            model, info = AutoModelForImageTextToText.from_pretrained(
                path,
                config=config,
                dtype=dtype,
                attn_implementation=attention,
                output_loading_info=True,
                local_files_only=True,
                trust_remote_code=False,
            )
    except Exception as error:  # broken files fail anywhere in transformers
        raise UserError(f"{path}: weights cannot be loaded: {one_line(error)}; copy its files again") from error
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if names := sorted(map(str, info[problem])):
            raise UserError(
                f"{path}: {len(names)} {problem.replace('_', ' ')}, e.g. {names[0]}; the folder is incomplete"
            )
    if getattr(config, "is_encoder_decoder", False):
        raise UserError(f"{path}: {config.model_type} is an encoder-decoder; only decoders can be trained here")
    if not isinstance(model.get_output_embeddings(), nn.Linear):
        raise UserError(f"{path}: {config.model_type} has no linear output head; such models cannot be trained here")
    return model

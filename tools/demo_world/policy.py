"""The demo's policy: Phi-4-multimodal's architecture at a few million parameters, with random weights.

Classes, tiling, chat tokens and adapter names are those of the real model; only the sizes are smaller. The byte-level
BPE is trained on the demo's own sentences: a word is about one token, and any other text still encodes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import (
    Phi4MultimodalConfig,
    Phi4MultimodalForCausalLM,
    Phi4MultimodalVisionConfig,
    PreTrainedTokenizerFast,
)

from swift.llm.checkpoint.adapters import add_vision_adapter
from swift.llm.checkpoint.save import save_policy
from swift.llm.images.dynamic_hd import DynamicHDImageProcessor
from swift.llm.policy import Policy

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|end|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|endoftext10|>",
    "<|endoftext11|>",
)
VOCABULARY = 1024
WORD = r"</?\w+>| ?\w+|\s+|[^\w\s]"  # a tag such as <think> may become one token
CROP = 56
LORA_RANK, LORA_ALPHA = 32, 64
BRIGHTNESS = 0.3


def write_policy(folder: str | Path, texts: Iterable[str], seed: int = 0) -> None:
    """Write a policy with random weights and a tokenizer trained on ``texts`` as a full checkpoint folder."""
    folder = Path(folder)
    tokenizer = train_tokenizer(texts)
    torch.manual_seed(seed)
    model = Phi4MultimodalForCausalLM(policy_config(tokenizer))
    add_vision_adapter(model, LORA_RANK, LORA_ALPHA)
    image = model.model.embed_tokens_extend.image_embed
    with torch.no_grad():  # transformers starts the separators at zero, which no trained checkpoint has
        for separator in (image.sub_img_feature_extensor, image.global_img_feature_extensor):
            separator.normal_(std=model.config.initializer_range)
        image.img_processor.embeddings.patch_embedding.weight.copy_(cosine_filters(model.config.vision_config))
        for layer in image.modules():
            if isinstance(
                layer, nn.Linear
            ):  # transformers draws the tower's from a unit normal, from which nothing learns
                nn.init.xavier_uniform_(layer.weight)
    model.requires_grad_(True)  # so that a full folder is written
    save_policy(Policy(model, tokenizer, DynamicHDImageProcessor(CROP, 14, dynamic_hd=4), folder), folder)


def cosine_filters(config: Phi4MultimodalVisionConfig) -> torch.Tensor:
    """Patch filters [width, 3, patch, patch]: the lowest frequencies of the discrete cosine transform, on the mean of
    the colors. A tower trained for minutes learns faster from them than from noise, which mostly measures the
    brightness of a patch. Brightness itself is scaled down for the same reason."""
    size = config.patch_size
    points = torch.arange(size) + 0.5
    waves = torch.stack([torch.cos(math.pi * k * points / size) * math.sqrt((1 + (k > 0)) / size) for k in range(size)])
    pairs = sorted(((a, b) for a in range(size) for b in range(size)), key=lambda pair: (sum(pair), pair))
    filters = torch.stack([torch.outer(waves[a], waves[b]) for a, b in pairs[: config.hidden_size]])
    filters[0] *= BRIGHTNESS
    return (filters[:, None] / config.num_channels).expand(-1, config.num_channels, -1, -1)


def train_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE that begins with Phi-4's control tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORD), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|endoftext|>",
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL_TOKENS[1:]),
        clean_up_tokenization_spaces=False,
    )


def policy_config(tokenizer: PreTrainedTokenizerFast) -> Phi4MultimodalConfig:
    """The architecture: 2.5 M parameters, 4 decoder layers of width 192, a vision tower of width 96."""
    token = dict(zip(SPECIAL_TOKENS, tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)), strict=True))
    return Phi4MultimodalConfig(
        vocab_size=VOCABULARY,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        original_max_position_embeddings=4096,
        initializer_range=0.06,  # about 1 / sqrt(width); the usual 0.02 suits widths of a thousand and more
        tie_word_embeddings=True,
        bos_token_id=token["<|endoftext|>"],
        eos_token_id=[token["<|endoftext|>"], token["<|end|>"]],
        pad_token_id=token["<|endoftext|>"],
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.75},
        vision_config={
            "hidden_size": 96,
            "intermediate_size": 256,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "image_size": CROP,
            "crop_size": CROP,
            "image_token_id": token["<|endoftext10|>"],
        },
        audio_config={
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_blocks": 1,
            "num_attention_heads": 2,
            "nemo_conv_channels": 8,
            "ext_pw_out_channel": 16,
            "depthwise_separable_out_channel": 16,
            "audio_token_id": token["<|endoftext11|>"],
            "input_size": 8,
            "bias_max_distance": 8,
        },
    )

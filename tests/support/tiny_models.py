"""Folders of tiny models of other kinds, as complete as published ones: weights, tokenizer, processor, chat template.

The random weights are wide, so that the distributions are far from flat and a wrong mask, position or image shows. The
tokenizers are byte-level BPEs trained on a few sentences.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForImageTextToText,
    CLIPVisionConfig,
    Gemma3Config,
    Idefics3Config,
    InternVLConfig,
    LlavaConfig,
    LlavaNextConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2VLConfig,
    Qwen3VLConfig,
    SmolVLMConfig,
)

from swift.utils.files import write_json
from tests.support.builders import QUESTIONS, SOLUTIONS

TEXT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 1024,
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "patch_size": 14,
}
PIXELS = {"do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "do_rescale": True}


def _content(image: str) -> str:
    """The part of a chat template that writes a turn's texts and images."""
    return (
        "{% for part in turn['content'] %}{% if part['type'] == 'image' %}"
        + image
        + "{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    )


SMOLVLM_CHAT = (
    "<|im_start|>{% for turn in messages %}{{ turn['role'] | capitalize }}"
    "{% if turn['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
    + _content("<image>")
    + "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
LLAVA_CHAT = (
    "{% for turn in messages %}{{ turn['role'] | upper }}: "
    + _content("<image>\n")
    + "{% if turn['role'] == 'assistant' %}</s>{% else %} {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
QWEN_CHAT = (
    "{% for turn in messages %}<|im_start|>{{ turn['role'] }}\n"
    + _content("<|vision_start|><|image_pad|><|vision_end|>")
    + "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
GEMMA_CHAT = (
    "{{ bos_token }}{% for turn in messages %}<start_of_turn>{{ 'model' if turn['role'] == 'assistant' else 'user' }}\n"
    + _content("<start_of_image>")
    + "<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


def write_smolvlm(folder: Path, name: str = "SmolVLM", config_class: type = SmolVLMConfig) -> None:
    """SmolVLM with at most 2 x 2 tiles of 56 pixels and an overview, 4 tokens each, between row and border tokens."""
    places = [f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2)]
    borders = ["<fake_token_around_image>", "<image>", "<global-img>", "<video>"]
    tokenizer = tokenizer_of(
        ["<|endoftext|>", "<|im_start|>", "<end_of_utterance>", *borders, *places], "<|im_start|>", "<end_of_utterance>"
    )
    config = config_class(
        vision_config=VISION | {"image_size": 56},
        text_config=TEXT | {"model_type": "llama", "vocab_size": len(tokenizer), "pad_token_id": 0},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=0,
    )
    _write(folder, config, tokenizer, SMOLVLM_CHAT)
    write_json(folder / "processor_config.json", {"processor_class": f"{name}Processor", "image_seq_len": 4})
    sizes = {"size": {"longest_edge": 112}, "max_image_size": {"longest_edge": 56}}
    switches = {"do_image_splitting": True, "do_resize": True, "do_pad": True, "do_convert_rgb": True}
    image = {"image_processor_type": f"{name}ImageProcessor", **sizes, **switches, **PIXELS}
    write_json(folder / "preprocessor_config.json", image)


def write_llava(folder: Path) -> None:
    """LLaVA with a CLIP tower of 28 pixels: 4 patches, without the class token."""
    tokenizer = _llava_tokenizer()
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**VISION, image_size=28, projection_dim=16),
        text_config=TEXT | {"model_type": "llama", "vocab_size": len(tokenizer), "pad_token_id": 0},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=4,
    )
    _write(folder, config, tokenizer, LLAVA_CHAT)
    _write_llava_processor(folder, "LlavaProcessor", "CLIPImageProcessor")


def write_llava_next(folder: Path) -> None:
    """LLaVA-NeXT: tiles, on a Mistral in which every layer sees a window of 16 tokens."""
    tokenizer = _llava_tokenizer()
    text = TEXT | {"model_type": "mistral", "vocab_size": len(tokenizer), "pad_token_id": 0, "sliding_window": 16}
    grids = [[28, 56], [56, 28], [56, 56]]
    config = LlavaNextConfig(
        vision_config=CLIPVisionConfig(**VISION, image_size=28, projection_dim=16),
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=grids,
    )
    _write(folder, config, tokenizer, LLAVA_CHAT)
    _write_llava_processor(folder, "LlavaNextProcessor", "LlavaNextImageProcessor", image_grid_pinpoints=grids)


def _llava_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer that adds its begin token itself, since the chat template does not."""
    tokenizer = tokenizer_of(["<pad>", "<s>", "</s>", "<image>"], "<s>", "</s>")
    front = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)])
    tokenizer.backend_tokenizer.post_processor = front
    return tokenizer


def _write_llava_processor(folder: Path, name: str, image_name: str, **more: object) -> None:
    settings = {"patch_size": 14, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    write_json(folder / "processor_config.json", {"processor_class": name, **settings})
    sizes = {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}}
    image = {"image_processor_type": image_name, **sizes, "do_resize": True, "do_center_crop": True, **PIXELS, **more}
    write_json(folder / "preprocessor_config.json", image)


QWEN_VISION = {
    Qwen2VLConfig: {"embed_dim": 16, "hidden_size": 32, "mlp_ratio": 2},
    Qwen2_5_VLConfig: {
        "hidden_size": 16,
        "intermediate_size": 24,
        "window_size": 56,
        "fullatt_block_indexes": [1],
        "out_hidden_size": 32,
    },
    Qwen3VLConfig: {
        "hidden_size": 16,
        "intermediate_size": 24,
        "out_hidden_size": 32,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0],  # its features also enter the decoder's first layer
    },
}


def write_qwen(folder: Path, name: str = "Qwen2_5_VL", config_class: type = Qwen2_5_VLConfig) -> None:
    """Qwen-VL with patches of 14 pixels, four patches per token. A token has three positions: time, row and column."""
    marks = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    tokenizer = tokenizer_of(["<|endoftext|>", "<|im_start|>", "<|im_end|>", *marks], None, "<|im_end|>")
    token = dict(zip(marks, tokenizer.convert_tokens_to_ids(marks), strict=True))
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
    vision = {"depth": 2, "num_heads": 2, "patch_size": 14, "spatial_merge_size": 2}
    config = config_class(
        vision_config=vision | QWEN_VISION[config_class],
        text_config=TEXT
        | {"vocab_size": len(tokenizer), "rope_parameters": rope, "bos_token_id": 0, "eos_token_id": 2},
        image_token_id=token["<|image_pad|>"],
        video_token_id=token["<|video_pad|>"],
        vision_start_token_id=token["<|vision_start|>"],
        vision_end_token_id=token["<|vision_end|>"],
    )
    _write(folder, config, tokenizer, QWEN_CHAT)
    image = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": f"{name}Processor",
        "size": {"shortest_edge": 56 * 56, "longest_edge": 112 * 112},
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
        **PIXELS,
    }
    write_json(folder / "preprocessor_config.json", image)


def write_internvl(folder: Path) -> None:
    """InternVL with tiles of 28 pixels, one token each, between image border tokens."""
    marks = ["<img>", "</img>", "<IMG_CONTEXT>", "<video>"]
    names = ("start_image_token", "end_image_token", "context_image_token", "video_token")
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *marks]
    tokenizer = tokenizer_of(special, None, "<|im_end|>", extra_special_tokens=dict(zip(names, marks, strict=True)))
    config = InternVLConfig(
        vision_config=VISION | {"image_size": [28, 28], "patch_size": [14, 14]},
        text_config=TEXT | {"model_type": "qwen2", "vocab_size": len(tokenizer)},
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=1,
    )
    _write(folder, config, tokenizer, QWEN_CHAT.replace("<|vision_start|><|image_pad|><|vision_end|>", "<IMG_CONTEXT>"))
    write_json(folder / "processor_config.json", {"processor_class": "InternVLProcessor", "image_seq_length": 1})
    tiling = {"size": {"height": 28, "width": 28}, "crop_to_patches": True, "min_patches": 1, "max_patches": 4}
    write_json(
        folder / "preprocessor_config.json", {"image_processor_type": "GotOcr2ImageProcessor", **tiling, **PIXELS}
    )


def write_gemma(folder: Path) -> None:
    """Gemma 3 with four tokens per image that attend both ways. The first layer sees a window of 16 tokens."""
    image_tokens = ["<start_of_image>", "<end_of_image>", "<image_soft_token>"]
    turns = ["<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"]
    names = dict(zip(("boi_token", "eoi_token", "image_token"), image_tokens, strict=True))
    tokenizer = tokenizer_of([*turns, *image_tokens], "<bos>", "<eos>", extra_special_tokens=names)
    boi, eoi, soft = tokenizer.convert_tokens_to_ids(image_tokens)
    layers = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 16}
    config = Gemma3Config(
        vision_config=VISION | {"image_size": 56},
        text_config=TEXT | layers | {"vocab_size": len(tokenizer), "query_pre_attn_scalar": 8},
        mm_tokens_per_image=4,
        boi_token_index=boi,
        eoi_token_index=eoi,
        image_token_index=soft,
    )
    _write(folder, config, tokenizer, GEMMA_CHAT)
    write_json(folder / "processor_config.json", {"processor_class": "Gemma3Processor", "image_seq_length": 4})
    size = {"size": {"height": 56, "width": 56}, "do_resize": True}
    write_json(folder / "preprocessor_config.json", {"image_processor_type": "Gemma3ImageProcessor", **size, **PIXELS})


WRITERS: dict[str, Callable[[Path], None]] = {
    "smolvlm": write_smolvlm,
    "llava": write_llava,
    "qwen2_5_vl": write_qwen,
    "gemma3": write_gemma,
}
# Kinds that only the tests of the probe use
MORE_WRITERS: dict[str, Callable[[Path], None]] = {
    "idefics3": partial(write_smolvlm, name="Idefics3", config_class=Idefics3Config),
    "qwen2_vl": partial(write_qwen, name="Qwen2VL", config_class=Qwen2VLConfig),
    "qwen3_vl": partial(write_qwen, name="Qwen3VL", config_class=Qwen3VLConfig),
    "llava_next": write_llava_next,
    "internvl": write_internvl,
}


def tokenizer_of(special: Sequence[str], bos: str | None, eos: str, **names) -> PreTrainedTokenizerFast:
    """A byte-level BPE that begins with the control tokens ``special``, the first of them for padding."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=list(special), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([*QUESTIONS, *SOLUTIONS], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=special[0],
        bos_token=bos,
        eos_token=eos,
        additional_special_tokens=list(special[1:]) if not names else None,
        clean_up_tokenization_spaces=False,
        **names,
    )


def _write(folder: Path, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerFast, chat: str) -> None:
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.2)
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(chat)

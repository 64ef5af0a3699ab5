"""Names of Phi-4-multimodal, said once: model types, classes, control tokens, tensors. Imports nothing.

They come from Microsoft's repository (the remote-code layout) and from transformers' own classes (the native layout).
"""

from __future__ import annotations

NATIVE, REMOTE = "phi4_multimodal", "phi4mm"  # model_type in config.json: transformers' layout and Microsoft's
MODEL_TYPES = (NATIVE, REMOTE)
NATIVE_CLASS, REMOTE_CLASS = "Phi4MultimodalForCausalLM", "Phi4MMForCausalLM"
NATIVE_IMAGE_PROCESSOR, REMOTE_IMAGE_PROCESSOR = "Phi4MultimodalImageProcessor", "Phi4MMImageProcessor"
REMOTE_MODEL_CODE = "modeling_phi4mm.py"

END_OF_TEXT, END, USER, ASSISTANT = "<|endoftext|>", "<|end|>", "<|user|>", "<|assistant|>"
IMAGE_TOKEN, AUDIO_TOKEN = "<|endoftext10|>", "<|endoftext11|>"  # one per image or audio feature
END_ID = 200020  # id of END in the published vocabulary; Microsoft's config.json names END_OF_TEXT alone

EMBEDDING = "model.embed_tokens.weight"
IMAGE_EMBEDDING = "model.embed_tokens_extend.image_embed."
IMAGE_TOWER = f"{IMAGE_EMBEDDING}img_processor."
AUDIO_EMBEDDING = "model.embed_tokens_extend.audio_embed."
AUDIO_ENCODERS = f"{AUDIO_EMBEDDING}encoder.encoders."
DECODER_LINEARS = r".*model\.layers\.\d+\.(self_attn\.(qkv_proj|o_proj)|mlp\.(gate_up_proj|down_proj))"

STOCK_DYNAMIC_HD = 36  # Microsoft's ceiling (9,585 tokens per image), which CheX-Phi4MM's evaluation never used


def turn_token(role: str) -> str:
    """The control token that opens a turn of ``role``: system, user or assistant."""
    return f"<|{role}|>"


def numbered_image(number: int) -> str:
    """The placeholder of image ``number``, counted from 1, as prompts show it."""
    return f"<|image_{number}|>"

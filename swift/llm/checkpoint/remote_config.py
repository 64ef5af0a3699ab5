"""Phi-4-multimodal's config.json in Microsoft's remote-code layout and in the native one. Pure functions.

The remote file does not state the sizes of the vision tower, and the native class does not know the adapters. Sizes
that the file leaves out are read from the shapes of the tensors. All others are the published model's values.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from typing import Any

from transformers import Phi4MultimodalAudioConfig, Phi4MultimodalVisionConfig

from swift.llm.phi4_names import (
    AUDIO_EMBEDDING,
    AUDIO_ENCODERS,
    AUDIO_TOKEN,
    END_ID,
    IMAGE_TOKEN,
    IMAGE_TOWER,
    NATIVE,
    NATIVE_CLASS,
    NATIVE_IMAGE_PROCESSOR,
    REMOTE,
    REMOTE_CLASS,
    REMOTE_IMAGE_PROCESSOR,
    STOCK_DYNAMIC_HD,
)

Shapes = Mapping[str, tuple[int, ...]]
SAME = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "resid_pdrop",
    "embd_pdrop",
    "attention_dropout",
    "hidden_act",
    "max_position_embeddings",
    "original_max_position_embeddings",
    "initializer_range",
    "rms_norm_eps",
    "use_cache",
    "tie_word_embeddings",
    "bos_token_id",
    "pad_token_id",
    "sliding_window",
)
AUDIO_NAMES = {  # native: remote, in audio_processor.config
    "hidden_size": "attention_dim",
    "num_attention_heads": "attention_heads",
    "intermediate_size": "linear_units",
    "depthwise_separable_out_channel": "depthwise_seperable_out_channel",
    "num_blocks": "num_blocks",
    "activation": "activation",
    "chunk_size": "chunk_size",
    "left_chunk": "left_chunk",
    "dropout_rate": "dropout_rate",
    "ext_pw_out_channel": "ext_pw_out_channel",
    "depthwise_multiplier": "depthwise_multiplier",
    "kernel_size": "kernel_size",
    "conv_activation": "conv_activation",
    "input_size": "input_size",
    "conv_glu_type": "conv_glu_type",
    "time_reduction": "time_reduction",
}
AUDIO_FIXED = {
    "activation_checkpointing": {"interval": 1, "module": "transformer", "offload": False},
    "batch_norm": False,
    "bias_in_glu": True,
    "causal": True,
    "cnn_layer_norm": True,
    "ext_pw_kernel_size": 1,
    "input_layer": "nemo_conv",
}
IMAGE_LAYER = {
    "embedding_cls": "tune_image",
    "enable_gradient_checkpointing": True,
    "hd_transform_order": "sub_glb",
    "image_token_compression_cls": "avg_pool_2d",
    "projection_cls": "mlp",
    "use_hd_transform": True,
    "with_learnable_separator": True,
}
AUDIO_LAYER = {
    "compression_rate": 8,
    "embedding_cls": "audio",
    "enable_gradient_checkpointing": True,
    "projection_cls": "mlp",
    "use_conv_downsample": False,
    "use_qformer": False,
}
FIXED = {
    "architectures": [REMOTE_CLASS],
    "attention_bias": False,
    "auto_map": {
        "AutoConfig": "configuration_phi4mm.Phi4MMConfig",
        "AutoModelForCausalLM": f"modeling_phi4mm.{REMOTE_CLASS}",
        "AutoTokenizer": "Xenova/gpt-4o",
    },
    "full_attn_mod": 1,
    "interpolate_factor": 1,
    "lm_head_bias": False,
    "mlp_bias": False,
    "model_type": REMOTE,
}
AUDIO_RATES = {  # name: (its name in a naive re-save, the published value)
    "audio_compression_rate": ("compression_rate", 8),
    "audio_downsample_rate": ("qformer_compression_rate", 1),
    "audio_feat_stride": ("feat_stride", 1),
}
REMOTE_PROCESSOR = {
    "auto_map": {
        "AutoFeatureExtractor": "processing_phi4mm.Phi4MMAudioFeatureExtractor",
        "AutoImageProcessor": f"processing_phi4mm.{REMOTE_IMAGE_PROCESSOR}",
        "AutoProcessor": "processing_phi4mm.Phi4MMProcessor",
    },
    "feature_extractor_type": "Phi4MMAudioFeatureExtractor",
    "image_processor_type": REMOTE_IMAGE_PROCESSOR,
    "processor_class": "Phi4MMProcessor",
}
NATIVE_PROCESSOR = {
    "feature_extractor_type": "Phi4MultimodalFeatureExtractor",
    "image_processor_type": NATIVE_IMAGE_PROCESSOR,
    "processor_class": "Phi4MultimodalProcessor",
}


def native_config(remote: Mapping[str, Any], shapes: Shapes, tokens: Mapping[str, int]) -> dict[str, Any]:
    """The native config.json of a remote one.

    ``shapes`` gives the shape of each tensor by its native name. ``tokens`` gives the ids of the tokenizer's control
    tokens, or is empty if there is no tokenizer. Raises TypeError, ValueError, KeyError or AttributeError for a value
    of the wrong type.
    """
    config = {name: remote[name] for name in SAME if name in remote}
    ends = remote.get("eos_token_id")
    ends = list(ends) if isinstance(ends, list) else [] if ends is None else [ends]
    if config.get("vocab_size", 0) > END_ID and END_ID not in ends:
        ends.append(END_ID)
    return config | {
        "model_type": NATIVE,
        "architectures": [NATIVE_CLASS],
        "eos_token_id": ends or None,
        "dtype": remote.get("dtype") or remote.get("torch_dtype"),
        "rope_parameters": _rope_parameters(remote),
        "vision_config": _vision(remote, shapes, tokens),
        "audio_config": _audio(remote, shapes, tokens),
    }


def remote_config(native: Mapping[str, Any], adapters: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The remote config.json of a native one (as ``PretrainedConfig.to_dict`` gives it). ``adapters`` holds the entries
    `vision_lora` and `speech_lora` by the adapter's name. A missing entry becomes null."""
    vision, audio = native["vision_config"], native["audio_config"]
    rope = dict(native["rope_parameters"])
    kind, theta, share = (rope.pop(key) for key in ("rope_type", "rope_theta", "partial_rotary_factor"))
    factors = {key: rope[key] for key in ("long_factor", "short_factor") if key in rope}
    ends = native.get("eos_token_id")
    config = FIXED | {name: native[name] for name in SAME if name in native}
    config |= {
        "eos_token_id": ends[0] if isinstance(ends, list) else ends,
        "torch_dtype": native.get("dtype") or native.get("torch_dtype"),
        "rope_theta": theta,
        "partial_rotary_factor": share,
        "rope_scaling": {"type": kind, **factors} if kind != "default" else None,
        "embd_layer": {
            "embedding_cls": "image_audio",
            "image_embd_layer": IMAGE_LAYER | {"crop_size": vision["crop_size"]},
            "audio_embd_layer": AUDIO_LAYER | {"downsample_rate": audio["downsample_rate"]},
        },
        "audio_processor": {"name": "cascades", "config": _remote_audio(audio)},
        "vision_lora": adapters.get("vision"),
        "speech_lora": adapters.get("speech"),
    }
    if special := _special_vision(vision):
        config["vision_config"] = special  # Microsoft's code knows one tower only and ignores this entry
    return config


def remote_lora(rank: int, alpha: int, dropout: float, modules: Collection[str]) -> dict[str, Any]:
    """The entry of an adapter on ``modules`` (native names). Its `layer` is a regular expression for names below
    `model.`. Raises ValueError if the remote layout cannot hold such an adapter."""
    parts = [re.fullmatch(r"model\.layers\.(\d+)\.(.+)", module) for module in sorted(modules)]
    if not parts or not all(parts):
        raise ValueError("the remote layout holds adapters on the decoder's linear layers only")
    layers = sorted({int(part[1]) for part in parts})
    kinds = sorted({part[2] for part in parts})
    if len(layers) * len(kinds) != len(parts):
        raise ValueError("the remote layout cannot hold an adapter that differs from layer to layer")
    numbers = r"\d+" if layers == list(range(len(layers))) else f"({'|'.join(map(str, layers))})"
    layer = rf"layers\.{numbers}\.({'|'.join(re.escape(kind) for kind in kinds)})"
    return {"dp": dropout, "layer": layer, "lora_alpha": alpha, "r": rank}


def processor_config(stated: Mapping[str, Any], to: str, crop_size: int, patch_size: int) -> dict[str, Any]:
    """preprocessor_config.json for layout ``to``, "native" or "remote". ``stated`` is the file of either layout or of a
    naive re-save, or {} if there is none. Sizes are in pixels."""
    own = stated.get("image_processor") or stated
    settings = {"dynamic_hd": own.get("dynamic_hd", STOCK_DYNAMIC_HD)}
    if own.get("dynamic_hd_chosen"):
        settings["dynamic_hd_chosen"] = True
    for name, (other, default) in AUDIO_RATES.items():
        settings[name] = stated.get(name, stated.get(other, default))
    if to == "remote":
        return REMOTE_PROCESSOR | settings
    return NATIVE_PROCESSOR | {"size": {"height": crop_size, "width": crop_size}, "patch_size": patch_size} | settings


def _rope_parameters(remote: Mapping[str, Any]) -> dict[str, Any]:
    scaling = dict(remote.get("rope_scaling") or {})
    kind = scaling.pop("type", None) or scaling.pop("rope_type", None) or "default"
    rope = {
        "rope_type": "longrope" if kind in ("su", "yarn", "longrope") else kind,
        "rope_theta": remote.get("rope_theta", 10_000.0),
        "partial_rotary_factor": remote.get("partial_rotary_factor", 1.0),
        **{key: scaling[key] for key in ("long_factor", "short_factor") if key in scaling},
    }
    if rope["rope_type"] == "longrope":
        rope["original_max_position_embeddings"] = remote.get("original_max_position_embeddings", 4096)
    return rope


def _vision(remote: Mapping[str, Any], shapes: Shapes, tokens: Mapping[str, int]) -> dict[str, Any]:
    config = {"image_token_id": tokens[IMAGE_TOKEN]} if IMAGE_TOKEN in tokens else {}
    patch, positions = (
        shapes.get(f"{IMAGE_TOWER}embeddings.{name}.weight") for name in ("patch_embedding", "position_embedding")
    )
    if patch and positions and len(patch) == 4:
        side = math.isqrt(positions[0]) * patch[-1]
        config |= {"hidden_size": patch[0], "patch_size": patch[-1], "image_size": side, "crop_size": side}
    if hidden := shapes.get(f"{IMAGE_TOWER}encoder.layers.0.mlp.fc1.weight"):
        config |= {"intermediate_size": hidden[0], "num_hidden_layers": _count(shapes, f"{IMAGE_TOWER}encoder.layers.")}
    layer = (remote.get("embd_layer") or {}).get("image_embd_layer") or {}
    if "crop_size" in layer:
        config["crop_size"] = layer["crop_size"]
    return config | (remote.get("vision_config") or {})


def _special_vision(vision: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that differ from the published tower's and that the shapes of the tensors do not show."""
    stock = Phi4MultimodalVisionConfig().to_dict()
    names = ("num_attention_heads", "hidden_act", "layer_norm_eps", "feature_layer")
    return {name: vision[name] for name in names if name in vision and vision[name] != stock[name]}


def _audio(remote: Mapping[str, Any], shapes: Shapes, tokens: Mapping[str, int]) -> dict[str, Any]:
    stated = (remote.get("audio_processor") or {}).get("config") or {}
    layer = (remote.get("embd_layer") or {}).get("audio_embd_layer") or {}
    config = _audio_sizes(shapes)
    config |= {native: stated[name] for native, name in AUDIO_NAMES.items() if name in stated}
    if "conv_channels" in (settings := stated.get("nemo_conv_settings") or {}):
        config["nemo_conv_channels"] = settings["conv_channels"]
    bias = stated.get("relative_attention_bias_args") or {}
    config["bias_symmetric"] = bias.get("t5_bias_symmetric", False)
    if "t5_bias_max_distance" in bias:
        config["bias_max_distance"] = bias["t5_bias_max_distance"]
    if "downsample_rate" in layer:
        config["downsample_rate"] = layer["downsample_rate"]
    if AUDIO_TOKEN in tokens:
        config["audio_token_id"] = tokens[AUDIO_TOKEN]
    return config


def _audio_sizes(shapes: Shapes) -> dict[str, Any]:
    first = f"{AUDIO_ENCODERS}0."
    known = {
        "hidden_size": shapes.get(f"{first}layer_norm.weight", ())[:1],
        "input_size": shapes.get(f"{AUDIO_EMBEDDING}encoder.encoder_embedding.global_mean", ())[:1],
        "nemo_conv_channels": shapes.get(f"{AUDIO_EMBEDDING}encoder.embed.conv.0.weight", ())[:1],
        "intermediate_size": shapes.get(f"{first}feed_forward_in.down_proj.weight", ())[1:],
        "ext_pw_out_channel": shapes.get(f"{first}conv.ext_pw_conv_1d.weight", ())[:1],
        "depthwise_separable_out_channel": shapes.get(f"{first}conv.dw_sep_conv_1d.pw_conv.weight", ())[:1],
        "kernel_size": shapes.get(f"{first}conv.dw_sep_conv_1d.dw_conv.weight", ())[2:],
    }
    sizes = {name: shape[0] for name, shape in known.items() if shape}
    if bias := shapes.get(f"{AUDIO_EMBEDDING}encoder.relative_attention_bias_layer.bias_values.weight"):
        sizes |= {"bias_max_distance": bias[0] // 2, "num_attention_heads": bias[1]}
    if blocks := _count(shapes, AUDIO_ENCODERS):
        sizes["num_blocks"] = blocks
    return sizes


def _remote_audio(audio: Mapping[str, Any]) -> dict[str, Any]:
    bias = {"t5_bias_max_distance": audio["bias_max_distance"], "type": "t5"}
    if audio.get("bias_symmetric"):
        bias["t5_bias_symmetric"] = True
    stock = Phi4MultimodalAudioConfig().to_dict()
    return AUDIO_FIXED | {
        **{remote: audio.get(native, stock[native]) for native, remote in AUDIO_NAMES.items()},
        "encoder_embedding_config": {"input_size": audio["input_size"]},
        "nemo_conv_settings": {"conv_channels": audio["nemo_conv_channels"]},
        "relative_attention_bias_args": bias,
    }


def _count(shapes: Shapes, prefix: str) -> int:
    """The number of numbered children below ``prefix``."""
    return len({name[len(prefix) :].split(".")[0] for name in shapes if name.startswith(prefix)})

"""A tiny Phi-4-multimodal in Microsoft's remote-code layout, written by hand.

Names and configuration keys are those of the published repository. They are spelled out here, and none is taken from
the code under test. ``write_remote`` writes random weights. ``write_native`` writes the same weights under their native
names, by a table of its own.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import Phi4MultimodalConfig, Phi4MultimodalForCausalLM

HIDDEN, MLP, LAYERS, HEADS, KV, VOCABULARY = 32, 48, 2, 4, 2, 512
TOWER, TOWER_MLP, PATCH, SIDE = 32, 24, 14, 28  # 16 heads, as the layout fixes them
SPEECH, BLOCKS = 16, 1
RANK, ALPHA = {"vision": 4, "speech": 3}, {"vision": 12, "speech": 6}
LINEAR = {
    "self_attn.qkv_proj": (HIDDEN + 2 * KV * HIDDEN // HEADS, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_up_proj": (2 * MLP, HIDDEN),
    "mlp.down_proj": (HIDDEN, MLP),
}
PUBLISHED_LAYERS = {
    "vision": r"layers.*((self_attn\.(qkv_proj|o_proj))|(mlp\.(gate_up|down)_proj))",
    "speech": r"((layers.*self_attn\.(qkv|o)_proj)|(layers.*mlp\.(gate_up|down)_proj))",
}


def remote_config(longrope: bool = False) -> dict:
    factors = {"long_factor": [1.5, 2.0, 4.0], "short_factor": [1.0, 1.1, 1.2], "type": "longrope"}
    return {
        "architectures": ["Phi4MMForCausalLM"],
        "model_type": "phi4mm",
        "auto_map": {"AutoModelForCausalLM": "modeling_phi4mm.Phi4MMForCausalLM"},
        "hidden_size": HIDDEN,
        "intermediate_size": MLP,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV,
        "vocab_size": VOCABULARY,
        "partial_rotary_factor": 0.75,
        "rope_theta": 10000.0,
        "rope_scaling": factors if longrope else None,
        "max_position_embeddings": 4096 if longrope else 2048,
        "original_max_position_embeddings": 2048,
        "sliding_window": 262144,
        "rms_norm_eps": 1e-5,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 0,
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
        "vision_lora": {"r": 4, "lora_alpha": 12, "dp": 0.0, "layer": PUBLISHED_LAYERS["vision"]},
        "speech_lora": {"r": 3, "lora_alpha": 6, "dp": 0.01, "layer": PUBLISHED_LAYERS["speech"]},
        "embd_layer": {"image_embd_layer": {"crop_size": SIDE}, "audio_embd_layer": {"downsample_rate": 1}},
        "audio_processor": {"config": {"attention_heads": 2, "time_reduction": 8, "num_blocks": BLOCKS}},
    }


def remote_shapes() -> dict[str, tuple[int, ...]]:
    """Every tensor of the layout and its shape."""
    shapes = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN), "model.norm.weight": (HIDDEN,)}
    for i in range(LAYERS):
        layer = f"model.layers.{i}."
        shapes |= {f"{layer}{name}.weight": (HIDDEN,) for name in ("input_layernorm", "post_attention_layernorm")}
        for name, (rows, columns) in LINEAR.items():
            shapes[f"{layer}{name}.base_layer.weight"] = (rows, columns)
            for adapter, rank in RANK.items():
                shapes[f"{layer}{name}.lora_A.{adapter}.weight"] = (rank, columns)
                shapes[f"{layer}{name}.lora_B.{adapter}.weight"] = (rows, rank)
    return shapes | _image_shapes() | _audio_shapes()


def _linear(name: str, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def _norm(name: str, size: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (size,), f"{name}.bias": (size,)}


def _image_shapes() -> dict[str, tuple[int, ...]]:
    image = "model.embed_tokens_extend.image_embed."
    tower = f"{image}img_processor."
    shapes = {
        f"{image}glb_GN": (1, 1, TOWER),
        f"{image}sub_GN": (1, 1, 1, TOWER),
        **_linear(f"{image}img_projection.0", HIDDEN, TOWER),
        **_linear(f"{image}img_projection.2", HIDDEN, HIDDEN),
        f"{tower}embeddings.patch_embedding.weight": (TOWER, 3, PATCH, PATCH),
        f"{tower}embeddings.patch_embedding.bias": (TOWER,),
        f"{tower}embeddings.position_embedding.weight": ((SIDE // PATCH) ** 2, TOWER),
        **_norm(f"{tower}post_layernorm", TOWER),
        f"{tower}head.probe": (1, 1, TOWER),
        f"{tower}head.attention.in_proj_weight": (3 * TOWER, TOWER),
        f"{tower}head.attention.in_proj_bias": (3 * TOWER,),
        **_linear(f"{tower}head.attention.out_proj", TOWER, TOWER),
        **_norm(f"{tower}head.layernorm", TOWER),
        **_linear(f"{tower}head.mlp.fc1", TOWER_MLP, TOWER),
        **_linear(f"{tower}head.mlp.fc2", TOWER, TOWER_MLP),
    }
    for i in range(2):
        layer = f"{tower}encoder.layers.{i}."
        for name in "qkv":
            shapes |= _linear(f"{layer}self_attn.{name}_proj", TOWER, TOWER)
        shapes |= _linear(f"{layer}self_attn.out_proj", TOWER, TOWER)
        shapes |= _linear(f"{layer}mlp.fc1", TOWER_MLP, TOWER) | _linear(f"{layer}mlp.fc2", TOWER, TOWER_MLP)
        shapes |= _norm(f"{layer}layer_norm1", TOWER) | _norm(f"{layer}layer_norm2", TOWER)
    return shapes


def _audio_shapes() -> dict[str, tuple[int, ...]]:
    audio = "model.embed_tokens_extend.audio_embed."
    encoder = f"{audio}encoder."
    shapes = {
        f"{encoder}encoder_embedding.global_mean": (8,),
        f"{encoder}encoder_embedding.global_invstd": (8,),
        f"{encoder}embed.conv.0.weight": (8, 1, 3, 3),
        f"{encoder}embed.conv.0.bias": (8,),
        f"{encoder}relative_attention_bias_layer.bias_values.weight": (16, 2),
        **_linear(f"{encoder}embed.out", SPEECH, 8),
    }
    for i in (2, 5):
        shapes |= {f"{encoder}embed.conv.{i}.weight": (8, 1, 3, 3), f"{encoder}embed.conv.{i}.bias": (8,)}
        shapes |= {f"{encoder}embed.conv.{i + 1}.weight": (8, 8, 1, 1), f"{encoder}embed.conv.{i + 1}.bias": (8,)}
    for kind in ("speech", "vision"):
        shapes |= _linear(f"{audio}audio_projection.{kind}.0", HIDDEN, SPEECH)
        shapes |= _linear(f"{audio}audio_projection.{kind}.2", HIDDEN, HIDDEN)
    for i in range(BLOCKS):
        block = f"{encoder}encoders.{i}."
        for name in ("q", "k", "v", "out"):
            shapes |= _linear(f"{block}self_attn.linear_{name}", SPEECH, SPEECH)
        for side in ("in", "out"):
            shapes |= _norm(f"{block}feed_forward_{side}.layer_norm", SPEECH)
            shapes |= _linear(f"{block}feed_forward_{side}.net.0.linear", 2 * 12, SPEECH)
            shapes |= _linear(f"{block}feed_forward_{side}.net.2", SPEECH, 12)
        shapes |= _norm(f"{block}layer_norm_att", SPEECH) | _norm(f"{block}layer_norm", SPEECH)
        shapes |= _norm(f"{block}conv.layer_norm", SPEECH)
        shapes |= {f"{block}conv.glu.b1": (1, 16, 1), f"{block}conv.glu.b2": (1, 16, 1)}
        shapes |= {
            f"{block}conv.glu.ext_pw_conv_1d.weight": (32, SPEECH, 1),
            f"{block}conv.glu.ext_pw_conv_1d.bias": (32,),
        }
        shapes |= {
            f"{block}conv.dw_sep_conv_1d.dw_conv.weight": (SPEECH, 1, 3),
            f"{block}conv.dw_sep_conv_1d.dw_conv.bias": (SPEECH,),
        }
        shapes |= {
            f"{block}conv.dw_sep_conv_1d.pw_conv.weight": (16, SPEECH, 1),
            f"{block}conv.dw_sep_conv_1d.pw_conv.bias": (16,),
        }
        shapes |= {f"{block}conv.ext_pw_conv_1d.weight": (16, SPEECH, 1), f"{block}conv.ext_pw_conv_1d.bias": (16,)}
    return shapes


def remote_tensors(seed: int = 0) -> dict[str, Tensor]:
    """Random values: norms near one, wide embeddings, all other weights small."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in remote_shapes().items():
        value = torch.randn(shape, generator=generator)
        if re.search(r"norm\w*\.weight|layernorm|global_invstd", name) and name.endswith(("weight", "invstd")):
            value = 1 + 0.1 * value
        elif "embed_tokens.weight" in name:
            value = 0.06 * value
        elif "_GN" not in name:
            value = 0.15 * value
        tensors[name] = value
    return tensors


def write_remote(folder: Path, files: Path, tensors: dict[str, Tensor] | None = None, **config: object) -> Path:
    """Write the checkpoint in three shards with their index. Tokenizer files come from the folder ``files``."""
    folder.mkdir(parents=True)
    tensors = remote_tensors() if tensors is None else tensors
    names = sorted(tensors)
    places = {}
    for part in range(3):
        file = f"model-0000{part + 1}-of-00003.safetensors"
        chosen = names[part::3]
        save_file({name: tensors[name].contiguous() for name in chosen}, folder / file, metadata={"format": "pt"})
        places |= dict.fromkeys(chosen, file)
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(remote_config() | config))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(files / name, folder / name)
    settings = json.loads((folder / "tokenizer_config.json").read_text()) | {"tokenizer_class": "GPT2TokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    processor = {
        "auto_map": {"AutoProcessor": "processing_phi4mm.Phi4MMProcessor"},
        "image_processor_type": "Phi4MMImageProcessor",
        "dynamic_hd": 36,
        "audio_compression_rate": 8,
        "audio_downsample_rate": 1,
        "audio_feat_stride": 1,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


def native_name(name: str) -> str:
    """The native name, by the rules of the published notes in their order."""
    name = name.replace("base_layer.", "").replace("glb_GN", "global_img_feature_extensor")
    name = name.replace("sub_GN", "sub_img_feature_extensor")
    name = name.replace("img_projection.0", "img_projection_up").replace("img_projection.2", "img_projection_down")
    name = name.replace("audio_projection.speech.0", "up_proj_for_speech")
    name = name.replace("audio_projection.speech.2", "down_proj_for_speech")
    name = name.replace("audio_projection.vision.0", "up_proj_for_vision_speech")
    name = name.replace("audio_projection.vision.2", "down_proj_for_vision_speech")
    name = re.sub(r"(feed_forward_(?:in|out))\.net\.0\.linear", r"\1.gate_up_proj", name)
    name = re.sub(r"(feed_forward_(?:in|out))\.net\.2", r"\1.down_proj", name)
    return re.sub(r"linear_(q|k|v)\.", r"\1_proj.", name).replace("linear_out", "o_proj")


def write_native(folder: Path, files: Path, tensors: dict[str, Tensor] | None = None, longrope: bool = False) -> Path:
    """Write the same weights in the native layout, by transformers' own ``save_pretrained``."""
    tensors = remote_tensors() if tensors is None else tensors
    remote = remote_config(longrope)
    rope = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.75}
    if longrope:
        rope |= {"rope_type": "longrope", "original_max_position_embeddings": 2048}
        rope |= {key: remote["rope_scaling"][key] for key in ("long_factor", "short_factor")}
    same = (
        "hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads vocab_size "
        "max_position_embeddings original_max_position_embeddings sliding_window rms_norm_eps "
        "bos_token_id pad_token_id tie_word_embeddings"
    )
    model = Phi4MultimodalForCausalLM(
        Phi4MultimodalConfig(
            **{name: remote[name] for name in same.split()},
            eos_token_id=[0],
            rope_parameters=rope,
            vision_config={
                "hidden_size": TOWER,
                "intermediate_size": TOWER_MLP,
                "num_hidden_layers": 2,
                "num_attention_heads": 16,
                "image_size": SIDE,
                "crop_size": SIDE,
                "image_token_id": 5,
            },
            audio_config={
                "hidden_size": SPEECH,
                "intermediate_size": 12,
                "num_blocks": BLOCKS,
                "num_attention_heads": 2,
                "nemo_conv_channels": 8,
                "ext_pw_out_channel": 16,
                "depthwise_separable_out_channel": 16,
                "audio_token_id": 6,
                "input_size": 8,
                "bias_max_distance": 8,
            },
        )
    )
    weights = {native_name(name): value for name, value in tensors.items() if ".lora_" not in name}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert (missing, unexpected) == (["lm_head.weight"], [])
    model.tie_weights()
    model.save_pretrained(folder)
    for adapter in RANK:
        _write_adapter(folder / f"{adapter}-lora", adapter, tensors)
    for name in ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"):
        shutil.copy(files / name, folder / name)
    return folder


def _write_adapter(folder: Path, adapter: str, tensors: dict[str, Tensor]) -> None:
    folder.mkdir()
    chosen = {
        f"base_model.model.{name}".replace(f".{adapter}.weight", ".weight"): value.clone()
        for name, value in tensors.items()
        if f".{adapter}.weight" in name and ".lora_" in name
    }
    save_file(chosen, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "r": RANK[adapter],
        "lora_alpha": ALPHA[adapter],
        "lora_dropout": 0.0,
        "target_modules": r"model\.layers\.\d+\.((self_attn\.(qkv|o)_proj)|(mlp\.(gate_up|down)_proj))",
        "task_type": "CAUSAL_LM",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))

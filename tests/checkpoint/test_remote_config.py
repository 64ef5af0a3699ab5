"""Configuration of the remote-code layout: it becomes the native one, and the published sizes come out."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from transformers import Phi4MultimodalConfig

from swift.llm.checkpoint.assemble import empty_model
from swift.llm.checkpoint.folders import find_policy
from swift.llm.checkpoint.layouts import read_checkpoint
from swift.llm.checkpoint.remote_config import native_config, processor_config
from swift.llm.checkpoint.remote_config import remote_config as to_remote_config
from tests.support.remote_checkpoint import remote_config, write_remote

PUBLISHED = remote_config() | {
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 32,
    "num_attention_heads": 24,
    "num_key_value_heads": 8,
    "vocab_size": 200064,
    "bos_token_id": 199999,
    "eos_token_id": 199999,
    "pad_token_id": 199999,
    "max_position_embeddings": 131072,
    "original_max_position_embeddings": 4096,
    "rope_scaling": {"type": "longrope", "long_factor": [2.0] * 48, "short_factor": [1.0] * 48},
    "torch_dtype": "bfloat16",
    "embd_layer": {"image_embd_layer": {"crop_size": 448}},
    "audio_processor": {"config": {"relative_attention_bias_args": {"t5_bias_max_distance": 500, "type": "t5"}}},
}


def test_the_published_configuration_becomes_the_native_one():
    """Values of the published config.json. Sizes that it leaves out are the native class's own."""
    config = Phi4MultimodalConfig.from_dict(native_config(PUBLISHED, {}, {}))
    assert config.eos_token_id == [199999, 200020]
    assert (config.num_attention_heads, config.num_key_value_heads, config.sliding_window) == (24, 8, 262144)
    assert config.rope_parameters["partial_rotary_factor"] == 0.75
    assert len(config.rope_parameters["long_factor"]) == 3072 // 24 * 0.75 // 2 == 48
    assert config.tie_word_embeddings is True
    assert config.dtype == torch.bfloat16
    vision = config.vision_config
    assert (vision.hidden_size, vision.intermediate_size, vision.num_hidden_layers) == (1152, 4304, 27)
    assert (vision.num_attention_heads, vision.patch_size, vision.crop_size) == (16, 14, 448)
    assert (vision.feature_layer, vision.image_token_id) == (-2, 200010)
    assert (config.audio_config.audio_token_id, config.audio_config.bias_max_distance) == (200011, 500)
    back = to_remote_config(config.to_dict(), {})
    same = set(PUBLISHED) - {"vision_lora", "speech_lora", "auto_map", "embd_layer", "audio_processor"}
    assert {name: back[name] for name in same} == {name: PUBLISHED[name] for name in same}
    assert back["audio_processor"]["config"]["relative_attention_bias_args"]["t5_bias_max_distance"] == 500


def test_the_published_adapters_have_their_published_sizes(world, tmp_path):
    """Rank 256 on qkv (3072 + 5120), o (3072 + 3072), gate_up (3072 + 16384) and down (8192 + 3072): 256 x 45,056
    per layer, which is the 369 M of all 32. The test has two layers, of shapes alone."""
    lora = {"vision_lora": PUBLISHED["vision_lora"] | {"r": 256}, "speech_lora": PUBLISHED["speech_lora"] | {"r": 320}}
    write_remote(tmp_path / "model", world / "policy", **(PUBLISHED | lora | {"num_hidden_layers": 2}))
    tiny = read_checkpoint(find_policy(tmp_path / "model"))
    config = native_config(PUBLISHED | {"num_hidden_layers": 2}, {}, {})
    model = empty_model(dataclasses.replace(tiny, config=config), torch.bfloat16)
    sizes = {name: value.numel() for name, value in model.named_parameters() if ".lora_" in name}
    assert sum(size for name, size in sizes.items() if ".vision." in name) == 2 * 256 * 45_056
    assert sum(size for name, size in sizes.items() if ".speech." in name) == 2 * 320 * 45_056
    assert 2 * 256 * 45_056 * 16 == 369_098_752


@pytest.mark.parametrize(
    "stated",
    [
        {"dynamic_hd": 36, "audio_compression_rate": 8, "audio_downsample_rate": 1, "audio_feat_stride": 1},
        {"dynamic_hd": 36, "compression_rate": 8, "qformer_compression_rate": 1, "feat_stride": 1},
        {},
    ],
)
@pytest.mark.parametrize("to", ["native", "remote"])
def test_every_spelling_of_the_processor_file_is_read(stated, to):
    found = processor_config(stated, to, 448, 14)
    rates = {key: found[key] for key in ("audio_compression_rate", "audio_downsample_rate", "audio_feat_stride")}
    assert rates == {"audio_compression_rate": 8, "audio_downsample_rate": 1, "audio_feat_stride": 1}
    assert found["dynamic_hd"] == 36

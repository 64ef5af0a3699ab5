"""Folders in the remote-code layout that are refused in one line, by file and reason."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
import torch

from swift.cli.rlhf import main
from swift.llm.checkpoint.load import load_policy
from swift.utils.errors import UserError
from tests.support.builders import rlhf_command
from tests.support.remote_checkpoint import remote_config, remote_tensors, write_remote


def first_shard(folder: Path) -> Path:
    return folder / "model-00001-of-00003.safetensors"


def rewrite_config(folder: Path, **change) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))


def cut(folder):
    data = first_shard(folder).read_bytes()
    first_shard(folder).write_bytes(data[: len(data) // 2])


def other_type(folder):
    rewrite_config(folder, model_type="phi9mm")


def other_native_type(folder):
    rewrite_config(folder, model_type="llama", auto_map=None)
    config = json.loads((folder / "config.json").read_text())
    del config["auto_map"]
    (folder / "config.json").write_text(json.dumps(config))


class Payload:
    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.system, (f"touch {self.file}",)


def evil_pickle(folder, zipped=True):
    for file in [*folder.glob("model*")]:
        file.unlink()
    weights = {"model.norm.weight": Payload(folder / "ran")}
    torch.save(weights, folder / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)


def stale_index(folder):
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"]["model.other.weight"] = first_shard(folder).name
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def small_vocabulary(folder):
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["more"] = 512
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


def float8(folder):
    rewrite_config(folder, torch_dtype="float8_e4m3fn")


FOLDERS = [
    (lambda folder: (folder / "config.json").unlink(), "neither config.json nor a finished checkpoint"),
    (cut, "model-00001-of-00003.safetensors cannot be read .*; copy the file again"),
    (lambda folder: first_shard(folder).unlink(), "index.json names model-00001-of-00003.safetensors, not in the fold"),
    (lambda folder: (folder / "model.safetensors.index.json").unlink(), "is a shard but no index lists the shards"),
    (stale_index, "names 1 tensors that its shards lack, e.g. model.other.weight in model-00001"),
    (other_type, r"model_type 'phi9mm' needs code of its own \(AutoModelForCausalLM\), which is never run here"),
    (other_native_type, "model_type 'llama' is not supported"),
    (evil_pickle, "pytorch_model.bin is not a pickle of plain tensors and could run code"),
    (lambda folder: evil_pickle(folder, zipped=False), "is not a pickle of plain tensors and could run code"),
    (small_vocabulary, "the tokenizer has ids up to 512, the embedding 512 rows"),
    (float8, r"torch.float8_e4m3fn weights cannot be computed with on this device \(cpu\)"),
    (lambda folder: rewrite_config(folder, vocab_size=500), r"embed_tokens.weight \(512, 32\) for \(500, 32\)"),
    (lambda folder: rewrite_config(folder, vision_lora=None), "vision_lora must give r, lora_alpha and layer"),
    (
        lambda folder: rewrite_config(folder, vision_lora=remote_config()["vision_lora"] | {"r": 8}),
        r"16 of another shape: .*lora_A.vision.weight \(4, 48\) for \(8, 48\).*the adapter belongs to another base",
    ),
    (lambda folder: rewrite_config(folder, num_attention_heads=5), "config.json|of another shape"),
    (lambda folder: (folder / "tokenizer.json").write_text("{"), "the tokenizer cannot be read|cannot be read"),
]


@pytest.mark.parametrize(("damage", "words"), FOLDERS)
def test_a_wrong_folder_is_refused_in_one_line(world, tmp_path, capsys, damage, words):
    """By the command itself, with exit status 2."""
    folder = write_remote(tmp_path / "model", world / "policy")
    damage(folder)
    assert main(rlhf_command(world, tmp_path / "run", model=folder)) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert re.search(words, errors[0])
    assert str(tmp_path) in errors[0]
    assert not (folder / "ran").exists()
    assert not (tmp_path / "run").exists()


def without(*parts):
    return lambda tensors: {k: v for k, v in tensors.items() if not all(part in k for part in parts)}


def zero_b(tensors):
    return {k: torch.zeros_like(v) if ".lora_B.vision." in k else v for k, v in tensors.items()}


def both_forms(tensors):
    name = "model.layers.1.mlp.down_proj"
    return tensors | {f"{name}.weight": tensors[f"{name}.base_layer.weight"].clone()}


def two_names(tensors):
    image = "model.embed_tokens_extend.image_embed."
    return tensors | {f"{image}sub_img_feature_extensor": tensors[f"{image}sub_GN"].clone()}


TENSORS = [
    (without("layers.1.mlp.down_proj.base_layer"), "1 missing: model.layers.1.mlp.down_proj.base_layer.weight; the f"),
    (without("post_layernorm", "img_processor"), "2 missing: .*post_layernorm.bias, .*post_layernorm.weight"),
    (
        lambda tensors: tensors | {"model.other": torch.ones(2)},
        "1 without a place: model.other; the folder is incomplete",
    ),
    (without("o_proj.lora_B.vision"), "2 missing: .*layers.0.self_attn.o_proj.lora_B.vision.weight, .*layers.1"),
    (
        without(".lora_"),
        "base_layer.weight was saved from inside an adapter, but the shards hold no vision LoRA: it was lost",
    ),
    (zero_b, "of the vision adapter's B matrices 8 are all zero: model.layers.0.mlp.down_proj.lora_B.weight, "),
    (both_forms, "down_proj.weight and model.layers.1.mlp.down_proj.base_layer.weight are two forms of one tensor"),
    (two_names, "sub_img_feature_extensor and .*sub_GN are two forms of one tensor"),
    (
        lambda tensors: tensors | {"model.layers.0.mlp.down_proj.lora_A.other.weight": torch.ones(2, 2)},
        "lora_A.other.weight belongs to an adapter that is neither vision nor speech",
    ),
    (
        lambda tensors: tensors | {"model.norm.weight": torch.ones(31)},
        r"1 of another shape: model.norm.weight \(31,\) for \(32,\)",
    ),
    (
        lambda tensors: tensors | {"model.norm.weight": torch.ones(0)},
        r"1 of another shape: model.norm.weight \(0,\) for \(32,\)",
    ),
]


@pytest.mark.parametrize(("change", "words"), TENSORS)
def test_tensors_that_do_not_fit_are_listed(world, tmp_path, change, words):
    folder = write_remote(tmp_path / "model", world / "policy", change(remote_tensors()))
    with pytest.raises(UserError, match=words) as caught:
        load_policy(folder)
    assert "\n" not in str(caught.value)


def setting(**values):
    return lambda folder: rewrite_config(folder, **values)


def text(name, content):
    return lambda folder: (folder / name).write_text(content)


INDEX = "model.safetensors.index.json"
SETTINGS = [
    (setting(vocab_size=None), "config.json has a value of the wrong type"),
    (setting(vocab_size="a"), "config.json has a value of the wrong type"),
    (setting(rope_scaling="x"), "config.json has a value of the wrong type"),
    (setting(embd_layer="x"), "config.json has a value of the wrong type"),
    (setting(embd_layer={"image_embd_layer": 3}), "config.json has a value of the wrong type"),
    (setting(vision_config="x"), "config.json has a value of the wrong type"),
    (setting(audio_processor=[1]), "config.json has a value of the wrong type"),
    (setting(vision_lora={"r": 4, "lora_alpha": 12, "layer": "("}), "its vision adapter does not fit the model"),
    (setting(num_attention_heads="x"), "config.json describes no model"),
    (setting(hidden_size=0), "config.json"),
    (setting(num_attention_heads=0), "config.json describes no model"),
    (setting(model_type="x", auto_map=3), "config.json: model_type 'x' is not supported"),
    (setting(model_type=["phi4mm"], auto_map=None), r"config.json: model_type \['phi4mm'\] is not supported"),
    (text("tokenizer.json", '{"added_tokens": 3}'), "tokenizer.json: added_tokens cannot be read"),
    (text("tokenizer.json", '{"added_tokens": [3]}'), "tokenizer.json: added_tokens cannot be read"),
    (text("preprocessor_config.json", "[]"), "preprocessor_config.json is not a JSON object"),
    (text("preprocessor_config.json", '{"image_processor": 3}'), "preprocessor_config.json: .*; fix or remove"),
    (text("generation_config.json", "[]"), "generation_config.json cannot be read"),
    (text(INDEX, '{"weight_map": {"a": 3}}'), "index.json cannot be read"),
    (text(INDEX, '{"weight_map": {}}'), "its files hold no weights"),
    (setting(embd_layer={"image_embd_layer": {"crop_size": 30}}), "config.json: crop_size 30 must be a multiple"),
]


@pytest.mark.parametrize(("damage", "words"), SETTINGS)
def test_broken_settings_are_refused_by_file_and_reason(world, tmp_path, damage, words):
    folder = write_remote(tmp_path / "model", world / "policy")
    damage(folder)
    with pytest.raises(UserError, match=words) as caught:
        load_policy(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)

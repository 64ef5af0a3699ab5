"""Microsoft's remote-code layout: every form of it is loaded as the same model as the native one, or refused."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import Phi4MultimodalConfig

from swift.cli.rlhf import main
from swift.engine.sampling import generate
from swift.evaluation.answering import greedy
from swift.llm.checkpoint.assemble import empty_model
from swift.llm.checkpoint.dtypes import computes_in
from swift.llm.checkpoint.folders import find_policy
from swift.llm.checkpoint.layouts import read_checkpoint
from swift.llm.checkpoint.load import load_policy
from swift.llm.checkpoint.remote_config import native_config, processor_config
from swift.llm.checkpoint.remote_config import remote_config as to_remote_config
from swift.llm.checkpoint.remote_names import read_name, remote_lora_name, remote_name
from swift.llm.checkpoint.stored_tensors import copy_tensors, list_tensors
from swift.llm.dataset import load_records
from swift.llm.policy import rope_switch
from swift.llm.template.phi4 import Phi4Template
from swift.utils.errors import UserError
from tests.support.builders import random_prompts, rlhf_command
from tests.support.remote_checkpoint import native_name, remote_config, remote_tensors, write_native, write_remote


def logits(model: torch.nn.Module) -> torch.Tensor:
    prompts = random_prompts(vocabulary=500)
    with torch.no_grad():
        return model(prompts.input_ids, attention_mask=prompts.mask.long(), **prompts.image_inputs()).logits[
            prompts.mask
        ]


def greedy_text(policy) -> list[str]:
    template = Phi4Template(policy.tokenizer, policy.image_processor, 5)
    found = generate(policy.model, random_prompts(vocabulary=500), 1, greedy(template, 12))
    return [template.decode(ids[:length]) for ids, length in zip(found.ids, found.lengths, strict=True)]


@pytest.fixture(scope="module")
def native(world, tmp_path_factory):
    return load_policy(write_native(tmp_path_factory.mktemp("native") / "model", world / "policy"))


@pytest.fixture(scope="module")
def remote(world, tmp_path_factory):
    return load_policy(write_remote(tmp_path_factory.mktemp("remote") / "model", world / "policy"))


def test_both_layouts_are_one_model(native, remote):
    """Logits with and without images, greedy text, every parameter and buffer, and which of them are vision LoRA."""
    assert torch.equal(logits(remote.model), logits(native.model))
    assert remote.model.config.to_dict() == native.model.config.to_dict()
    values, expected = remote.model.state_dict(), native.model.state_dict()
    assert values.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in values.items())
    vision = {name for name, _ in remote.model.named_parameters() if ".vision." in name}
    assert vision == {name for name, _ in native.model.named_parameters() if ".vision." in name}
    assert len(vision) == 2 * 4 * 2
    assert remote.model.active_adapters() == ["vision"]
    assert remote.tokenizer.get_vocab() == native.tokenizer.get_vocab()
    assert remote.image_processor.crop_size == native.image_processor.crop_size == 28


def test_both_layouts_write_the_same_greedy_text(native, remote):
    texts = greedy_text(remote)
    assert texts == greedy_text(native)
    assert len(set(texts)) > 1


def test_the_vision_adapter_counts(remote):
    remote.model.set_adapter("speech")
    other = logits(remote.model)
    remote.model.set_adapter("vision")
    remote.model.requires_grad_(False)
    assert (other - logits(remote.model)).abs().max() > 1e-2


def test_buffers_that_are_not_saved_are_right(world, tmp_path):
    """With longrope: 1 / (factor * 10000 ** (2i / 6)) for the three rotary pairs of a head of 8, of which 6 rotate."""
    config = remote_config(longrope=True)
    policy = load_policy(write_remote(tmp_path / "model", world / "policy", **config))
    expected = [1 / (factor * 10000 ** (i / 3)) for i, factor in enumerate([1.0, 1.1, 1.2])]
    assert policy.model.model.rotary_emb.inv_freq.tolist() == pytest.approx(expected, rel=1e-6)
    # sqrt(1 + ln(4096 / 2048) / ln(2048)) = sqrt(1 + 1 / 11)
    assert policy.model.model.rotary_emb.attention_scaling == pytest.approx((12 / 11) ** 0.5)
    assert rope_switch(policy.model) == 2048
    twin = load_policy(write_native(tmp_path / "native", world / "policy", longrope=True))
    assert torch.equal(logits(policy.model), logits(twin.model))


def test_names_map_there_and_back():
    adapted = {name.removesuffix(".base_layer.weight") for name in remote_tensors() if "base_layer" in name}
    for stored in remote_tensors():
        name = read_name(stored)
        if name.lora:
            assert remote_lora_name(name.native, name.adapter) == stored
        else:
            assert name.native == native_name(stored)
            assert read_name(name.native).native == name.native
            assert remote_name(name.native, adapted) == stored


def prefixed(tensors):
    return {f"base_model.model.{name}": value for name, value in tensors.items()}


def half_renamed(tensors):
    return {(native_name(k) if "_GN" in k or "encoders.0" in k else k): v for k, v in tensors.items()}


def with_head(tensors):
    return tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}


def with_derived(tensors):
    return tensors | {"model.rotary_emb.inv_freq": torch.zeros(3)}


@pytest.mark.parametrize("change", [prefixed, half_renamed, with_head, with_derived])
def test_every_form_of_a_re_save_is_the_same_model(world, tmp_path, native, change):
    folder = write_remote(tmp_path / "model", world / "policy", change(remote_tensors()))
    assert torch.equal(logits(load_policy(folder).model), logits(native.model))


def test_pickled_shards_are_read_without_running_them(world, tmp_path, native):
    folder = write_remote(tmp_path / "model", world / "policy")
    for file in [*folder.glob("model*")]:
        file.unlink()
    torch.save(remote_tensors(), folder / "pytorch_model.bin")
    assert torch.equal(logits(load_policy(folder).model), logits(native.model))


def test_a_merged_re_save_has_no_adapters(world, tmp_path, native):
    """Weights with the vision adapter folded in by hand: alpha / rank = 12 / 4."""
    tensors = remote_tensors()
    for name in [name for name in tensors if name.endswith(".base_layer.weight")]:
        module = name.removesuffix(".base_layer.weight")
        a, b = tensors[f"{module}.lora_A.vision.weight"], tensors[f"{module}.lora_B.vision.weight"]
        tensors[f"{module}.weight"] = tensors.pop(name) + 3.0 * b @ a
    tensors = {name: value for name, value in tensors.items() if ".lora_" not in name}
    policy = load_policy(write_remote(tmp_path / "model", world / "policy", tensors))
    assert not getattr(policy.model, "peft_config", {})
    assert (logits(policy.model) - logits(native.model)).abs().max() < 1e-5


def test_a_stored_head_that_differs_from_the_embedding_counts(world, tmp_path):
    head = torch.randn(512, 32)
    folder = write_remote(tmp_path / "model", world / "policy", remote_tensors() | {"lm_head.weight": head})
    policy = load_policy(folder)
    assert torch.equal(policy.model.lm_head.weight, head)
    assert torch.equal(policy.model.model.embed_tokens.weight, remote_tensors()["model.embed_tokens.weight"])
    assert policy.model.config.tie_word_embeddings is False


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


def test_what_was_loaded_and_ignored_is_reported(world, tmp_path, caplog):
    logging.getLogger("chex").addHandler(caplog.handler)
    load_policy(write_remote(tmp_path / "model", world / "policy", with_head(with_derived(remote_tensors()))))
    logging.getLogger("chex").removeHandler(caplog.handler)
    text = "\n".join(caplog.messages)
    assert "remote-code layout, 128 weights in 3 files" in text
    assert re.search(r"vision adapter of .*: rank 4, alpha 12", text)
    assert re.search(r"speech adapter of .*: rank 3, alpha 6", text)
    assert "ignored model.rotary_emb.inv_freq: the model computes it" in text
    assert "ignored lm_head.weight: it equals the input embedding" in text


def test_a_policy_of_another_type_is_refused_by_the_device(tmp_path):
    cpu = torch.device("cpu")
    assert computes_in(torch.float32, cpu)
    assert computes_in(torch.bfloat16, cpu)
    assert not computes_in(torch.float8_e5m2, cpu)
    assert not computes_in(torch.int64, cpu)


@pytest.mark.parametrize("pickled", [False, True])
@pytest.mark.parametrize("shape", [(), (7,), (1000, 3), (3, 1000), (0, 4)])
def test_tensors_are_copied_whole_whatever_the_window(tmp_path, monkeypatch, pickled, shape):
    """Blocks of rows and mappings that are opened again give the same values as one read."""
    monkeypatch.setattr("swift.llm.checkpoint.stored_tensors.WINDOW", 256)
    tensors = {name: torch.randn(shape) for name in "ab"}
    file = tmp_path / ("pytorch_model.bin" if pickled else "model.safetensors")
    torch.save(tensors, file) if pickled else save_file(tensors, file)
    listed = list_tensors([file])
    found = {name: torch.full(shape, -1.0, dtype=torch.float64) for name in "ab"}
    copy_tensors((listed[name], found[name]) for name in "ab")
    assert all(torch.equal(found[name], tensors[name].double()) for name in "ab")


@pytest.mark.parametrize(
    ("room", "new", "refused"),
    [(24, 24, False), (24, 25, True), (0, 1, True), (-1, 300, False), (0, 0, False)],
)
def test_a_completion_must_not_cross_the_rope_switch(world, remote, room, new, refused):
    """The switch is ``room`` tokens beyond the prompt. A completion ends before it, unless the prompt is beyond it."""
    (record, *_) = load_records([world / "data" / "train.json"])
    length = len(Phi4Template(remote.tokenizer, remote.image_processor, 5).encode_prompt(record).input_ids)
    switch = length + room
    template = Phi4Template(remote.tokenizer, remote.image_processor, 5, rope_switch=switch, new_tokens=new)
    if refused:
        with pytest.raises(UserError, match=rf"record 0: the prompt has {length} tokens .* switch at {switch}"):
            template.check_prompts([record])
    else:
        template.check_prompts([record])


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

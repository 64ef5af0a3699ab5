"""Folders of policies: finding them, refusing bad ones, and the adapters that fit a model."""

from __future__ import annotations

import dataclasses
import json
import logging
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bench.load_checkpoint import measure, write_checkpoint
from swift.llm.checkpoint.adapters import WEIGHTS, fill_adapter, read_adapter
from swift.llm.checkpoint.load import load_policy
from swift.llm.checkpoint.save import is_small, load_weights, save_policy
from swift.llm.policy import trainable_parameters
from swift.utils.errors import UserError
from tests.support.builders import tiny_model


@pytest.fixture
def adapter(world, tmp_path) -> Path:
    """A copy of the world's vision adapter."""
    return shutil.copytree(world / "policy" / "vision-lora", tmp_path / "vision-lora")


def rewrite(folder: Path, change) -> dict[str, torch.Tensor]:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)
    return tensors


A_TENSOR = "base_model.model.model.layers.1.self_attn.o_proj.lora_A.weight"


@pytest.mark.parametrize("rename", [lambda key: key, lambda key: key.removeprefix("base_model.model.")])
def test_an_adapter_fills_the_model_with_and_without_the_prefix_of_peft(adapter, rename):
    tensors = load_file(adapter / WEIGHTS)
    save_file({rename(key): torch.full_like(value, 0.25) for key, value in tensors.items()}, adapter / WEIGHTS)
    model = tiny_model(vocabulary=512, layers=3)
    fill_adapter(model, read_adapter(adapter), "vision")
    assert all(bool((value == 0.25).all()) for name, value in model.named_parameters() if ".lora_" in name)


def test_an_adapter_key_may_carry_the_adapters_name(adapter):
    tensors = load_file(adapter / WEIGHTS)
    save_file({key.replace(".weight", ".default.weight"): value for key, value in tensors.items()}, adapter / WEIGHTS)
    model = tiny_model(vocabulary=512, layers=3)
    fill_adapter(model, read_adapter(adapter), "vision")
    name = A_TENSOR.removeprefix("base_model.model.").replace(".weight", ".vision.weight")
    assert torch.equal(model.state_dict()[name], tensors[A_TENSOR])


def test_a_head_in_the_adapter_folder_replaces_a_tied_one(adapter):
    head = torch.randn(512, 32)
    rewrite(adapter, lambda tensors: tensors.update({"base_model.model.lm_head.weight": head}))
    model = tiny_model(vocabulary=512, layers=3)
    embedding = model.model.embed_tokens.weight.clone()
    fill_adapter(model, read_adapter(adapter), "vision")
    assert torch.equal(model.lm_head.weight, head)
    assert torch.equal(model.model.embed_tokens.weight, embedding)
    assert model.config.tie_word_embeddings is False


def drop(tensors):
    del tensors[A_TENSOR]


def add(tensors):
    tensors["base_model.model.model.layers.7.self_attn.o_proj.lora_A.weight"] = torch.zeros(4, 32)


def reshape(tensors):
    tensors[A_TENSOR] = torch.zeros(8, 32)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (drop, "1 tensors missing and 0 without a place, e.g. .*layers.1.self_attn.o_proj.lora_A.vision.weight"),
        (add, "0 tensors missing and 1 without a place, e.g. .*layers.7.self_attn.o_proj.lora_A.vision.weight"),
        (reshape, r"o_proj.lora_A.vision.weight has shape \(8, 32\), the model's \(4, 32\)"),
    ],
)
def test_an_adapter_of_another_base_is_refused_by_name(adapter, change, words):
    rewrite(adapter, change)
    with pytest.raises(UserError, match=f"adapter_model.safetensors: .*{words}.*belongs to another base"):
        fill_adapter(tiny_model(vocabulary=512, layers=3), read_adapter(adapter), "vision")


@pytest.mark.parametrize("content", [None, b"half"])
def test_an_unreadable_adapter_is_named(adapter, content):
    (adapter / WEIGHTS).unlink()
    if content is not None:
        (adapter / WEIGHTS).write_bytes(content)
    with pytest.raises(UserError, match=r"adapter_model\.safetensors cannot be read .*; copy the file again"):
        fill_adapter(tiny_model(vocabulary=512, layers=3), read_adapter(adapter), "vision")


def broken_policy(world: Path, folder: Path, damage: str) -> Path:
    """A copy of the world's policy with one thing wrong."""
    policy = shutil.copytree(world / "policy", folder / "policy")
    config = json.loads((policy / "config.json").read_text())
    if damage == "config":
        (policy / "config.json").write_text("{")
    elif damage == "type":
        (policy / "config.json").write_text(json.dumps(config | {"model_type": "llama"}))
    elif damage == "cut":
        weights = (policy / "model.safetensors").read_bytes()
        (policy / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    elif damage == "lost":
        (policy / "vision-lora" / "adapter_config.json").unlink()
    elif damage == "gone":
        (policy / "model.safetensors").unlink()
    else:
        tensors = load_file(policy / "model.safetensors")
        if damage == "missing":
            del tensors["model.norm.weight"]
        else:
            tensors["model.other.weight"] = torch.zeros(32)
        save_file(tensors, policy / "model.safetensors")
    return policy


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("config", "config.json cannot be read .*; give the folder of a model"),
        ("type", "config.json: model_type 'llama' is not supported; use a Phi-4-multimodal folder"),
        ("cut", "model.safetensors cannot be read .*; copy the file again"),
        ("lost", "adapter_config.json"),  # it used to load as the bare base
        ("gone", "policy: no weights; it should hold model.safetensors or shards"),
        ("missing", "policy: 1 missing: model.norm.weight; the folder is incomplete"),
        ("strange", "policy: 1 without a place: model.other.weight; the folder is incomplete"),
    ],
)
def test_a_damaged_policy_is_refused_in_one_line(world, tmp_path, damage, words):
    with pytest.raises(UserError, match=words) as caught:
        load_policy(broken_policy(world, tmp_path, damage))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            '{"base_model_name_or_path": "/nowhere/base"}',
            "its base model, /nowhere/base, is not there; name",
        ),
        ('{"base_model_name_or_path": null}', "its base model, None, is not there; name its folder"),
        ("{", "cannot be read .*; copy the folder again"),
    ],
)
def test_an_adapter_without_its_base_is_refused(adapter, config, words):
    (adapter / "adapter_config.json").write_text(config)
    with pytest.raises(UserError, match=f"adapter_config.json:? {words}"):
        load_policy(adapter)


def test_a_base_that_is_named_wins_over_the_adapters_own(world, adapter):
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "/nowhere/base"}))
    assert load_policy(adapter, base=world / "policy").base == world / "policy"


@pytest.mark.parametrize(
    ("pattern", "small"),
    [
        (r"\.lora_[AB]\.vision\.", True),
        (r"\.lora_[AB]\.vision\.|lm_head", True),
        ("lm_head", True),
        (r"\.lora_[AB]\.vision\.|norm", False),
        ("", False),
        ("nothing", False),
    ],
)
def test_an_adapter_folder_is_enough_for_the_vision_adapter_and_the_head(pattern, small):
    model = tiny_model(tie=False)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(re.search(pattern, name) is not None)
    assert is_small(model) is small


def test_a_speech_adapter_is_saved_with_the_whole_policy(world, tmp_path):
    """Its name differs from that of the adapter in an adapter folder."""
    source = shutil.copytree(world / "policy", tmp_path / "policy")
    (source / "vision-lora").rename(source / "speech-lora")
    policy = load_policy(source)
    for name, parameter in policy.model.named_parameters():
        parameter.requires_grad_(".lora_" in name)
    with torch.no_grad():
        for parameter in trainable_parameters(policy.model).values():
            parameter.fill_(0.5)
    save_policy(policy, tmp_path / "saved")
    loaded = load_policy(tmp_path / "saved").model
    adapter = [value for name, value in loaded.named_parameters() if ".lora_" in name]
    assert len(adapter) == 2 * 4 * 3
    assert all(bool((value == 0.5).all()) for value in adapter)


def trained_adapter(world: Path, folder: Path) -> Path:
    policy = load_policy(world / "policy")
    for name, parameter in policy.model.named_parameters():
        parameter.requires_grad_(".lora_" in name)
    save_policy(policy, folder)
    return folder


def test_an_adapter_knows_the_weights_it_was_trained_on(world, tmp_path):
    """Other weights of the same shapes are refused. A copy of the base is accepted, also in another layout."""
    adapter = trained_adapter(world, tmp_path / "adapter")
    copy = shutil.copytree(world / "policy", tmp_path / "copy")
    assert load_policy(adapter, base=copy).base == copy
    tensors = load_file(copy / "model.safetensors")
    tensors["model.layers.1.mlp.down_proj.weight"][0, 0] += 1
    save_file(tensors, copy / "model.safetensors")
    with pytest.raises(
        UserError, match=r"adapter was trained on another base than .*copy, whose weights have the same"
    ):
        load_policy(adapter, base=copy)


def test_an_adapter_of_other_shapes_is_refused_when_it_is_loaded(world, tmp_path):
    larger = dataclasses.replace(load_policy(world / "policy"), model=tiny_model(vocabulary=512, layers=5))
    larger.model.requires_grad_(True)
    save_policy(larger, tmp_path / "larger")
    # two layers too many, four modules in each, A and B
    with pytest.raises(UserError, match=r"16 without a place: .*layers.3.*the adapter belongs to another base"):
        load_policy(tmp_path / "larger" / "vision-lora", base=world / "policy")


def test_loading_takes_hardly_more_memory_than_the_checkpoint(tmp_path):
    """Loading runs in its own process. The added memory is under 1.25 times the checkpoint, as for large ones."""
    nbytes = write_checkpoint(tmp_path, 5e8, vocabulary=60_000)
    assert 4.7e8 < nbytes < 5.3e8
    memory = measure("remote", tmp_path)
    assert 0.98 * nbytes < memory["after"]
    assert memory["peak"] < 1.25 * nbytes


def stored_as(dtype: torch.dtype, folder: Path, change=lambda value: value) -> Path:
    """The folder with its weights changed and stored in ``dtype``."""
    tensors = load_file(folder / "model.safetensors")
    save_file({name: change(value).to(dtype) for name, value in tensors.items()}, folder / "model.safetensors")
    return folder


def test_an_adapter_knows_its_base_in_bfloat16_too(world, tmp_path):
    """An adapter trained on float32 weights accepts the same weights rounded, and refuses others in bfloat16."""
    adapter = trained_adapter(world, tmp_path / "adapter")
    rounded = stored_as(torch.bfloat16, shutil.copytree(world / "policy", tmp_path / "rounded"))
    assert load_policy(adapter, base=rounded).base == rounded
    other = stored_as(torch.bfloat16, shutil.copytree(world / "policy", tmp_path / "other"), torch.randn_like)
    with pytest.raises(UserError, match=r"adapter was trained on another base than .*other, whose weights"):
        load_policy(adapter, base=other)


def test_a_base_in_float16_is_loaded_with_a_warning(world, tmp_path, caplog):
    """It rounds differently, so that the digests differ for the same weights too."""
    adapter = trained_adapter(world, tmp_path / "adapter")
    half = stored_as(torch.float16, shutil.copytree(world / "policy", tmp_path / "half"))
    logging.getLogger("chex").addHandler(caplog.handler)
    assert load_policy(adapter, base=half).base == half
    logging.getLogger("chex").removeHandler(caplog.handler)
    assert "was trained on float32 weights" in caplog.text
    assert "they cannot be compared" in caplog.text


def test_a_base_file_of_an_older_form_is_no_hindrance(world, tmp_path):
    adapter = trained_adapter(world, tmp_path / "adapter")
    (adapter / "base.json").write_text('{"dtypes": "float32", "sha256": "0"}')
    assert load_policy(adapter).base == world / "policy"


def test_a_run_is_resumed_only_from_complete_weights(world, tmp_path):
    """Missing tensors and tensors without a place are both listed. A tied head is neither."""
    policy = load_policy(world / "policy")
    save_policy(policy, tmp_path / "full", full=True)
    load_weights(policy.model, tmp_path / "full")
    tensors = load_file(tmp_path / "full" / "model.safetensors")
    assert "lm_head.weight" not in tensors
    del tensors["model.norm.weight"], tensors["model.layers.1.mlp.down_proj.weight"]
    tensors["model.other.weight"] = torch.zeros(2)
    save_file(tensors, tmp_path / "full" / "model.safetensors")
    words = r"2 missing: model.layers.1.mlp.down_proj.weight, model.norm.weight; 1 without a place: model.other.weight;"
    with pytest.raises(UserError, match=words):
        load_weights(policy.model, tmp_path / "full")


def change_json(name: str, **values: object):
    """Damage that sets values of a JSON file."""

    def change(folder: Path) -> None:
        content = json.loads((folder / name).read_text()) if (folder / name).exists() else {}
        (folder / name).write_text(json.dumps(content | values))

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (change_json("config.json", model_type=["x"]), r"config.json: model_type \['x'\] is not supported"),
        (change_json("config.json", vision_config=3), "config.json"),
        (change_json("config.json", hidden_size=0), "config.json"),
        (change_json("vision-lora/adapter_config.json", r="x"), "vision-lora"),
        (
            change_json("vision-lora/adapter_config.json", target_modules="("),
            "vision-lora: the configuration of its vision ad",
        ),
        (lambda folder: (folder / "generation_config.json").write_text("[]"), "generation_config.json cannot be read"),
    ],
)
def test_broken_settings_are_refused_in_one_line(world, tmp_path, change, words):
    folder = shutil.copytree(world / "policy", tmp_path / "policy")
    change(folder)
    with pytest.raises(UserError, match=words) as caught:
        load_policy(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)

"""Microsoft's remote-code layout: every form of it is loaded as the same model as the native one, or refused."""

from __future__ import annotations

import logging
import re

import pytest
import torch
from safetensors.torch import save_file

from swift.engine.sampling import generate
from swift.evaluation.answering import greedy
from swift.llm.checkpoint.dtypes import computes_in
from swift.llm.checkpoint.load import load_policy
from swift.llm.checkpoint.remote_names import read_name, remote_lora_name, remote_name
from swift.llm.checkpoint.stored_tensors import copy_tensors, list_tensors
from swift.llm.dataset import load_records
from swift.llm.policy import rope_switch
from swift.llm.template.phi4 import Phi4Template
from swift.utils.errors import UserError
from tests.support.builders import random_prompts
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
    """The switch is ``room`` tokens after the prompt. A completion ends before it, unless the prompt is beyond it."""
    (record, *_) = load_records([world / "data" / "train.json"])
    length = len(Phi4Template(remote.tokenizer, remote.image_processor, 5).encode_prompt(record).input_ids)
    switch = length + room
    template = Phi4Template(remote.tokenizer, remote.image_processor, 5, rope_switch=switch, new_tokens=new)
    if refused:
        with pytest.raises(UserError, match=rf"record 0: the prompt has {length} tokens .* switch at {switch}"):
            template.check_prompts([record])
    else:
        template.check_prompts([record])

"""The freezing hook trains the vision LoRA and the head, and nothing else."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import Phi4MultimodalForCausalLM

from tests.support.builders import tiny_config
from utils.freezing import describe_trainable, freeze_after_construction, freeze_non_vision, untie_head

TARGETS = r"model\.layers\.\d+\.(self_attn\.(qkv_proj|o_proj)|mlp\.(gate_up_proj|down_proj))"


def small_phi4(tied: bool, seed: int = 0) -> Phi4MultimodalForCausalLM:
    torch.manual_seed(seed)
    return Phi4MultimodalForCausalLM(tiny_config(tie=tied))


def with_adapters(model: Phi4MultimodalForCausalLM, *names: str) -> Phi4MultimodalForCausalLM:
    for name in names:
        model.add_adapter(LoraConfig(r=4, target_modules=TARGETS), adapter_name=name)
    return model


def adapted(tied: bool) -> Phi4MultimodalForCausalLM:
    model = with_adapters(small_phi4(tied), "vision", "speech")
    model.set_adapter("vision")
    return model


def one_step(model: torch.nn.Module) -> set[str]:
    """Names of the tensors that one optimizer step on everything trainable changes."""
    before = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    optimizer = torch.optim.SGD([tensor for tensor in model.parameters() if tensor.requires_grad], lr=1.0)
    ids = torch.arange(3, 11).view(1, -1)
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    return {name for name, tensor in model.named_parameters() if not torch.equal(tensor, before[name])}


@pytest.mark.parametrize("tied", [True, False])
def test_exactly_vision_lora_and_head_are_trainable(tied):
    model = adapted(tied)
    names = freeze_non_vision(model)
    # 2 layers x 4 projections x (A, B) and the head.
    assert len(names) == 2 * 4 * 2 + 1
    assert {name for name, tensor in model.named_parameters() if tensor.requires_grad} == set(names)
    assert all(".lora_A.vision." in name or ".lora_B.vision." in name for name in names if name != "lm_head.weight")


def test_adapters_inside_a_peft_model_are_found():
    wrapped = get_peft_model(small_phi4(tied=True), LoraConfig(r=4, target_modules=TARGETS), adapter_name="vision")
    names = freeze_non_vision(wrapped)
    assert len(names) == 17
    assert names[-1] == "base_model.model.lm_head.weight"
    assert "base_model.model.model.layers.0.self_attn.qkv_proj.lora_A.vision.weight" in names


def test_an_adapter_named_after_its_folder_is_found():
    assert len(freeze_non_vision(with_adapters(small_phi4(tied=False), "vision-lora"))) == 17


def test_head_kept_by_peft_trains_only_its_own_copy():
    settings = LoraConfig(r=4, target_modules=TARGETS, modules_to_save=["lm_head"])
    wrapped = get_peft_model(small_phi4(tied=False), settings, adapter_name="vision")
    heads = [name for name in freeze_non_vision(wrapped) if "lm_head" in name]
    assert heads == ["base_model.model.lm_head.modules_to_save.vision.weight"]


@pytest.mark.parametrize("tied", [True, False])
def test_a_step_leaves_every_frozen_tensor_as_it_was(tied):
    model = adapted(tied)
    freeze_non_vision(model)
    changed = one_step(model)
    # lora_A has no gradient while lora_B is zero, so the first step moves lora_B and the head.
    assert changed == {name for name, _ in model.named_parameters() if ".lora_B.vision." in name} | {"lm_head.weight"}


def test_untied_head_starts_equal_and_leaves_the_input_embedding_alone():
    model = adapted(tied=True)
    embedding = model.get_input_embeddings().weight
    assert untie_head(model) is True
    assert torch.equal(model.lm_head.weight, embedding)
    assert model.lm_head.weight.data_ptr() != embedding.data_ptr()
    assert untie_head(model) is False


def test_an_untied_head_stays_untied_when_transformers_ties_again():
    model = adapted(tied=True)
    untie_head(model)
    model.tie_weights()
    model.tie_weights(recompute_mapping=False)
    assert model.lm_head.weight is not model.get_input_embeddings().weight


def test_untied_checkpoint_says_so_and_loads_back(tmp_path):
    model = small_phi4(tied=True)
    untie_head(model)
    with torch.no_grad():
        model.lm_head.weight.add_(1.0)
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["tie_word_embeddings"] is False
    assert {"lm_head.weight", "model.embed_tokens.weight"} <= set(load_file(tmp_path / "model.safetensors"))
    loaded = Phi4MultimodalForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)
    assert torch.equal(loaded.get_input_embeddings().weight, model.get_input_embeddings().weight)


@pytest.mark.parametrize(
    ("adapters", "listed"), [((), "it carries no adapter"), (("speech",), "its adapters are speech")]
)
def test_a_model_without_vision_lora_is_refused(adapters, listed):
    with pytest.raises(ValueError, match=f"no vision LoRA.*{listed}.*load a checkpoint"):
        freeze_non_vision(with_adapters(small_phi4(tied=False), *adapters))


def test_a_model_without_head_is_refused():
    headless = adapted(tied=False).model
    with pytest.raises(ValueError, match="no lm_head"):
        freeze_non_vision(headless)


def test_a_partitioned_tied_head_is_refused_with_the_remedy():
    model = adapted(tied=True)
    model.lm_head.weight.ds_id = 7  # set by DeepSpeed ZeRO-3 on parameters that it has split
    with pytest.raises(ValueError, match="--deepspeed zero2"):
        freeze_non_vision(model)


def test_description_groups_layers_and_gives_the_share():
    model = adapted(tied=False)
    freeze_non_vision(model)
    lines = describe_trainable(model).splitlines()
    # qkv_proj maps 32 -> (4 + 2 * 2) heads x 8 = 64: A is 4 x 32 and B is 64 x 4, in 2 layers.
    assert "model.layers.*.self_attn.qkv_proj.lora_A.vision.weight x 2: 256" in lines
    assert "model.layers.*.self_attn.qkv_proj.lora_B.vision.weight x 2: 512" in lines
    assert "lm_head.weight x 1: 2,048" in lines
    trainable = sum(tensor.numel() for tensor in model.parameters() if tensor.requires_grad)
    total = sum(tensor.numel() for tensor in model.parameters())
    assert lines[-1] == f"trainable {trainable:,} of {total:,} parameters ({100 * trainable / total:.2f}%)"


class SmallTrainer:
    """Stand-in for GRPOTrainer that takes the model first or by keyword and keeps it."""

    def __init__(self, model=None, args=None):
        self.model = model
        self.args = args


def test_the_hook_freezes_once_however_often_it_is_installed():
    trainer_class = type(
        "Trainer", (SmallTrainer,), {"__init__": lambda self, model: SmallTrainer.__init__(self, model)}
    )
    reported = []
    freeze_after_construction(trainer_class, reported.append)
    freeze_after_construction(trainer_class, reported.append)
    trainer = trainer_class(adapted(tied=True))
    assert reported == [trainer]
    assert sum(tensor.requires_grad for tensor in trainer.model.parameters()) == 17


def test_the_hook_accepts_the_model_by_keyword():
    trainer_class = type("Trainer", (SmallTrainer,), {})
    freeze_after_construction(trainer_class, lambda trainer: None)
    trainer = trainer_class(model=adapted(tied=False), args=SimpleNamespace())
    assert not trainer.model.get_input_embeddings().weight.requires_grad

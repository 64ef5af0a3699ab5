"""Folders of other models that lack a setting, or that hold what cannot be trained here: they work, or are one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModelForImageTextToText, IdeficsConfig, MllamaConfig

from swift.llm.checkpoint.load import load_policy
from swift.llm.dataset import load_records
from swift.llm.template.choose import template_for
from swift.utils.errors import UserError
from tests.support.tiny_models import write_llava, write_llava_next

SETTINGS = ("patch_size", "vision_feature_select_strategy", "num_additional_image_tokens")


@pytest.fixture(scope="module")
def llava(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("llava") / "llava"
    write_llava(folder)
    return folder


def ids_of(folder: Path, world: Path) -> list[int]:
    """The prompt of a record for the model in ``folder``."""
    record = load_records([world / "data" / "train.json"])[0]
    return template_for(load_policy(folder)).encode_prompt(record).input_ids.tolist()


@pytest.mark.parametrize("write", [write_llava, write_llava_next], ids=["llava", "llava_next"])
@pytest.mark.parametrize("missing", [SETTINGS[:1], SETTINGS, None], ids=["patch size", "all settings", "the file"])
def test_settings_that_a_processor_lacks_come_from_the_model(write, missing, world, tmp_path):
    write(tmp_path)
    expected = ids_of(tmp_path, world)
    file = tmp_path / "processor_config.json"
    if missing is None:
        file.unlink()
    else:
        stated = {name: value for name, value in json.loads(file.read_text()).items() if name not in missing}
        file.write_text(json.dumps(stated))
    assert ids_of(tmp_path, world) == expected


def test_a_processor_that_cannot_prepare_an_image_is_one_line(llava, world, tmp_path):
    write_llava(tmp_path)
    file = tmp_path / "processor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"patch_size": "large"}))
    with pytest.raises(UserError, match=r"LlavaProcessor cannot prepare an image \(.*; copy its processor_config.json"):
        ids_of(tmp_path, world)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"modules_to_save": ["embed_tokens"]}, "embed_tokens.weight"),
        ({"modules_to_save": ["embed_tokens", "lm_head"]}, "embed_tokens.weight"),
        ({"modules_to_save": ["multi_modal_projector"]}, "multi_modal_projector"),
        ({"target_modules": ["q_proj", "embed_tokens"]}, "lora_embedding_A"),
    ],
    ids=["embedding", "embedding and head", "projector", "adapted embedding"],
)
def test_an_adapter_with_more_than_lora_matrices_is_one_line(settings, name, llava, tmp_path):
    model = AutoModelForImageTextToText.from_pretrained(llava)
    plain = {"target_modules": ".*language_model.*q_proj", "r": 2, "init_lora_weights": False}
    get_peft_model(model, LoraConfig(**plain | settings)).save_pretrained(tmp_path)
    with pytest.raises(UserError) as caught:
        load_policy(tmp_path, base=llava)
    assert name in str(caught.value)
    assert "merge it into a full checkpoint" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("config", [MllamaConfig(), IdeficsConfig()], ids=["mllama", "idefics"])
def test_a_model_with_cross_attention_is_one_line(config, tmp_path):
    config.save_pretrained(tmp_path)
    save_file({"weight": torch.zeros(1)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=f"{config.model_type} looks at images by cross attention"):
        load_policy(tmp_path)

"""Broken folders of models: each is refused in one line, and no code in them runs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from swift.cli.rlhf import main as rlhf
from tests.support.builders import rlhf_command
from tests.support.tiny_models import WRITERS


def refused(model: Path, world: Path, tmp_path: Path, capsys) -> str:
    """The one line of the command's refusal, with status 2."""
    assert rlhf(rlhf_command(world, tmp_path / "run", model=model, train_type="lora")) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert str(model) in line
    return line


class Payload:
    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


def pickled(model: Path) -> None:
    (model / "model.safetensors").unlink()
    torch.save({"weight": Payload(model / "ran")}, model / "pytorch_model.bin")


def more_tokens(model: Path) -> None:
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    tokenizer["added_tokens"].append(tokenizer["added_tokens"][-1] | {"id": 100_000, "content": "<|extra|>"})
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))
    larger = AutoTokenizer.from_pretrained(model)
    larger.add_tokens([f"zz{number}" for number in range(3000)])
    larger.save_pretrained(model)


def index_alone(weights: str):
    def change(model: Path) -> None:
        file = "model-00001-of-00001.safetensors"
        (model / "model.safetensors").rename(model / file)
        place = dict.fromkeys(load_file(model / file), file) if weights == "all" else {"a": weights}
        (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": place}))

    return change


def config_with(**values: object):
    def change(model: Path) -> None:
        config = json.loads((model / "config.json").read_text())
        (model / "config.json").write_text(json.dumps(config | values))

    return change


DAMAGE = {
    "pickle": (pickled, "is not a pickle of plain tensors and could run code"),
    "no tokenizer": (lambda model: (model / "tokenizer.json").unlink(), "the tokenizer|its processor"),
    "half a tokenizer": (lambda model: (model / "tokenizer.json").write_text("{"), "the tokenizer cannot be read"),
    "a list": (lambda model: (model / "tokenizer_config.json").write_text("[]"), "the tokenizer cannot be read"),
    "large tokenizer": (more_tokens, r"the tokenizer has ids up to \d+, the embedding \d+ rows"),
    "float8": (config_with(dtype="float8_e4m3fn"), "float8_e4m3fn weights cannot be computed with on this device"),
    "nonsense": (config_with(dtype="nonsense"), "describes no model|weights cannot be computed with"),
    "text": (config_with(text_config="x"), "config.json describes no model: ."),
    "bogus": (config_with(text_config={"model_type": "bogus"}), "config.json describes no model: ."),
    "shard": (index_alone("model-00001-of-00002.safetensors"), "names model-00001-of-00002.safetensors, not in"),
    "metadata": (index_alone("all"), "weights cannot be loaded: .*metadata"),
    "processor": (lambda model: (model / "preprocessor_config.json").write_text("[]"), "its processor cannot be built"),
    "generation": (lambda model: (model / "generation_config.json").write_text("[]"), "weights cannot be loaded: ."),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_broken_folder_is_refused_in_one_line(world, tmp_path, capsys, damage):
    change, words = DAMAGE[damage]
    model = tmp_path / "model"
    WRITERS["llava"](model)
    change(model)
    line = refused(model, world, tmp_path, capsys)
    assert re.search(words, line), line
    assert not (model / "ran").exists()

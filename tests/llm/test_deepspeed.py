"""DeepSpeed's settings: built-in ones, contradictions with the flags, and loading under ZeRO-3."""

from __future__ import annotations

import importlib.util
import json

import pytest
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.integrations.deepspeed import set_hf_deepspeed_config, unset_hf_deepspeed_config

from swift.llm.arguments import parse_rlhf_args
from swift.llm.checkpoint.load import load_policy
from swift.llm.deepspeed_configs import DEEPSPEED_CONFIGS, check_mismatches, deepspeed_config
from swift.utils.errors import UserError
from tests.support.tiny_models import write_llava


class ZeRO3:
    """The methods that transformers calls on a DeepSpeed configuration, with sizes that do not fit: 7 is not 2 * 1."""

    def __init__(self) -> None:
        self.config = {"train_batch_size": 7, "train_micro_batch_size_per_gpu": 2, "gradient_accumulation_steps": 1}

    def is_zero3(self) -> bool:
        return True


@pytest.fixture
def zero3():
    """ZeRO-3, switched on as TrainingArguments does it."""
    configuration = ZeRO3()  # transformers holds a weak reference only
    set_hf_deepspeed_config(configuration)
    yield configuration
    unset_hf_deepspeed_config()


def test_deepspeed_is_refused_if_it_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    flags = ["--model", "m", "--dataset", "d", "--reward_funcs", "a", "--output_dir", str(tmp_path / "run")]
    with pytest.raises(UserError, match="--deepspeed needs the deepspeed package"):
        parse_rlhf_args([*flags, "--deepspeed", "zero2"])


@pytest.mark.parametrize(("name", "stage"), [("zero2", 2), ("zero3", 3)])
def test_built_in_deepspeed_settings_leave_sizes_to_the_flags(name, stage):
    settings = DEEPSPEED_CONFIGS[name]
    assert settings["zero_optimization"]["stage"] == stage
    assert settings["train_batch_size"] == settings["gradient_accumulation_steps"] == "auto"
    assert json.loads(json.dumps(settings)) == settings


def test_a_file_that_contradicts_the_flags_is_refused_in_one_line():
    check_mismatches([])
    lines = [
        "- ds train_batch_size=7 vs hf train_batch_size (calculated)=8",
        "- ds gradient_clipping=2 vs hf max_grad_norm=1.0",
    ]
    words = (
        r"^--deepspeed: the file contradicts the flags \(train_batch_size=7 against train_batch_size \(calculated\)=8, "
        r'gradient_clipping=2 against max_grad_norm=1.0\); set the values in the file to "auto"$'
    )
    with pytest.raises(UserError, match=words):
        check_mismatches(lines)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("{}", "holds no settings; write", id="empty"),
        pytest.param("# settings", "cannot be read", id="not JSON"),
        pytest.param("[]", "is not a JSON object", id="a list"),
    ],
)
def test_a_file_without_settings_is_refused(text, words, tmp_path):
    path = tmp_path / "ds.json"
    path.write_text(text)
    with pytest.raises(UserError, match=f"^--deepspeed {path} {words}"):
        deepspeed_config(str(path))


def test_an_empty_object_is_refused():
    """Transformers took it for no flag at all, and the run ended in a traceback."""
    with pytest.raises(UserError, match=r"^--deepspeed {} holds no settings"):
        deepspeed_config({})


def test_a_policy_is_loaded_whole_under_zero_3(world, zero3, tmp_path):
    """Both loaders used to let DeepSpeed split the empty model, and called its errors a damaged config.json."""
    unset_hf_deepspeed_config()
    write_llava(tmp_path)
    set_hf_deepspeed_config(zero3)
    for folder in (world / "policy", tmp_path):
        model = load_policy(folder).model
        assert all(value.numel() > 0 for value in model.parameters())
        assert is_deepspeed_zero3_enabled()

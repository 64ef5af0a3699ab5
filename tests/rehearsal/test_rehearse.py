"""A rehearsal at real size: the checkpoint that it writes, its gauges, and one whole run at two layers."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from swift.llm.checkpoint.load import load_policy
from swift.llm.phi4_names import AUDIO_TOKEN
from swift.utils.errors import UserError
from swift.utils.files import write_json
from tests.support.builders import tiny_config
from tools.rehearsal import checkpoint, gauges
from tools.rehearsal.checkpoint import make_random_checkpoint
from tools.rehearsal.gauges import Measure, PartGauge, forget_peaks, peaks, table
from tools.rehearsal.sizes import CONTROL_IDS, rehearsal_config
from tools.rehearse import main

NARROW = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vision_config": {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "image_size": 28,
        "crop_size": 28,
    },
    "audio_config": tiny_config().audio_config.to_dict() | {"audio_token_id": CONTROL_IDS[AUDIO_TOKEN]},
}
PARTS = {
    "Python and libraries", "writing", "loading", "probe", "rollout", "reward", "scores before the update",
    "forward and backward", "optimizer", "save", "between parts",
}  # fmt: skip


@pytest.fixture(scope="module")
def sizes(tmp_path_factory):
    """A config.json of narrow layers and the published vocabulary."""
    return write_json(tmp_path_factory.mktemp("sizes") / "narrow.json", NARROW)


@pytest.fixture(scope="module")
def rehearsed(sizes, tmp_path_factory):
    """The folder of one rehearsal of two layers."""
    folder = tmp_path_factory.mktemp("rehearsal")
    assert main([*command(sizes, folder), "--beta", "0.1"]) == 0
    return folder


def command(sizes, folder) -> list[str]:
    return [
        "--layers", "2", "--config", str(sizes), "--folder", str(folder), "--film", "60", "90", "--use_cpu", "true",
        "--per_device_train_batch_size", "4", "--num_generations", "2", "--max_completion_length", "3",
        "--disable_tqdm", "true",
    ]  # fmt: skip


def result(folder):
    return json.loads((folder / "run" / "rehearsal.json").read_text())


def test_a_rehearsal_measures_every_part_of_a_step(rehearsed):
    parts = result(rehearsed)["parts"]
    assert set(parts) == PARTS
    assert all(part["host"] > 1e8 for part in parts.values())
    assert all(parts[name]["seconds"] > 0 for name in PARTS - {"Python and libraries"})
    assert {part["device"] for part in parts.values()} == {None}


def test_a_rehearsal_trains_the_vision_lora_and_the_head_of_the_published_vocabulary(rehearsed):
    saved = load_file(rehearsed / "run" / "checkpoint-1" / "adapter_model.safetensors")
    assert saved["base_model.model.lm_head.weight"].shape == (200_064, 64)
    assert sum(".lora_A." in name for name in saved) == 2 * 4  # four linear layers in each of two layers
    assert {value.dtype for value in saved.values()} == {torch.float32}


def test_a_rehearsal_plans_for_what_it_runs(rehearsed):
    held = result(rehearsed)["plan"]["held"]
    saved = load_file(rehearsed / "run" / "checkpoint-1" / "adapter_model.safetensors")
    assert held["trained weights in float32"] == 4 * sum(value.numel() for value in saved.values())


def test_completions_of_a_random_policy_have_their_full_length(rehearsed):
    lines = (rehearsed / "run" / "completions.jsonl").read_text().splitlines()
    assert [len(json.loads(line)["per_token_logps"][0]) for line in lines] == [3] * 4


def test_a_second_rehearsal_takes_the_checkpoint_that_is_there(rehearsed, sizes, capsys):
    shard = rehearsed / "policy" / "model-00001.safetensors"
    written = shard.stat().st_mtime_ns
    assert main([*command(sizes, rehearsed), "--train_type", "dummy", "--max_steps", "2"]) == 0
    assert shard.stat().st_mtime_ns == written
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "1 x cpu, the slowest and the largest process of each part"
    assert printed[1].split() == ["part", "seconds", "host", "GB"]
    assert printed[-2].startswith("all")
    assert printed[-1].startswith("memory plan: ")
    saved = load_file(rehearsed / "run" / "checkpoint-2" / "adapter_model.safetensors")
    assert not any("lm_head" in name for name in saved)  # as --train_type says


def test_a_run_that_fails_shows_what_was_measured(rehearsed, sizes, capsys):
    assert main([*command(sizes, rehearsed), "--trainable", "nothing"]) == 2
    captured = capsys.readouterr()
    assert "--trainable nothing matches no parameter" in captured.err
    assert any(line.startswith("writing") for line in captured.out.splitlines())


def test_flags_of_the_run_are_checked_before_anything_is_written(sizes, tmp_path, capsys):
    assert main([*command(sizes, tmp_path / "new"), "--temperature", "0"]) == 2
    assert "--temperature 0.0 must be above 0" in capsys.readouterr().err
    assert not (tmp_path / "new" / "policy").exists()


# -- the checkpoint


@pytest.fixture(scope="module", params=["native", "remote"])
def folder(request, sizes, tmp_path_factory):
    """A random checkpoint of one layer in either layout."""
    path = tmp_path_factory.mktemp("random") / request.param
    assert make_random_checkpoint(path, request.param, rehearsal_config(1, sizes))
    return path


def test_either_layout_loads_with_both_adapters_and_phi4s_tokens(folder):
    policy = load_policy(folder)
    assert policy.model.dtype == torch.bfloat16
    assert set(policy.model.peft_config) == {"vision", "speech"}
    assert policy.model.peft_config["vision"].r == 256
    for name, number in CONTROL_IDS.items():
        assert policy.tokenizer.convert_tokens_to_ids(name) == number


def test_the_layouts_differ_on_disk(folder):
    model_type = json.loads((folder / "config.json").read_text())["model_type"]
    assert model_type == {"native": "phi4_multimodal", "remote": "phi4mm"}[folder.name]
    assert (folder / "vision-lora").is_dir() == (folder.name == "native")


def test_weights_are_noise_and_scales_of_norms_are_one(folder):
    model = load_policy(folder).model
    weight = model.model.layers[0].mlp.down_proj.base_layer.weight.float()
    assert weight.abs().max() <= 0.0201
    assert float(weight.std()) == pytest.approx(0.04 / np.sqrt(12), rel=0.1)  # of a uniform distribution on +-0.02
    assert torch.equal(model.model.norm.weight, torch.ones_like(model.model.norm.weight))


def test_a_checkpoint_of_other_sizes_is_replaced(sizes, tmp_path):
    assert make_random_checkpoint(tmp_path, "native", rehearsal_config(1, sizes))
    assert not make_random_checkpoint(tmp_path, "native", rehearsal_config(1, sizes))
    assert make_random_checkpoint(tmp_path, "native", rehearsal_config(2, sizes))
    assert load_policy(tmp_path).model.config.num_hidden_layers == 2


def test_a_folder_of_the_user_is_left_alone(sizes, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="is not a checkpoint of a rehearsal; name another --folder"):
        make_random_checkpoint(tmp_path, "native", rehearsal_config(1, sizes))
    assert (tmp_path / "config.json").read_text() == "{}"


def test_a_disk_without_room_is_named_before_it_is_full(sizes, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda path: SimpleNamespace(free=1e6))
    with pytest.raises(UserError, match=r"the weights take 0\.0 GB and the disk has 0\.0 GB; name another --folder"):
        make_random_checkpoint(tmp_path / "new", "native", rehearsal_config(1, sizes))


# -- the sizes


def test_without_flags_the_sizes_are_the_published_ones():
    config = rehearsal_config()
    sizes = (config.vocab_size, config.hidden_size, config.intermediate_size, config.num_hidden_layers)
    assert sizes == (200_064, 3072, 8192, 32)
    assert (config.num_attention_heads, config.num_key_value_heads) == (24, 8)
    vision = config.vision_config
    assert (vision.hidden_size, vision.intermediate_size, vision.num_hidden_layers) == (1152, 4304, 27)
    assert len(config.rope_parameters["long_factor"]) == 48


def test_microsofts_own_config_names_the_sizes_too(tmp_path):
    remote = {"model_type": "phi4mm", "vocab_size": 200_064, "hidden_size": 96, "num_attention_heads": 4}
    file = write_json(tmp_path / "config.json", remote | {"num_hidden_layers": 5, "num_key_value_heads": 2})
    config = rehearsal_config(None, file)
    assert (config.hidden_size, config.num_hidden_layers) == (96, 5)
    assert rehearsal_config(2, file).num_hidden_layers == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "is not a JSON object; name a config.json"),
        ('{"vocab_size": 1000}', "vocab_size 1000 must be above 200022"),
        ('{"hidden_size": "wide"}', "does not describe a Phi-4-multimodal"),
    ],
)
def test_a_config_that_cannot_be_used_is_one_line(tmp_path, text, message):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=message):
        rehearsal_config(None, tmp_path / "config.json")


# -- the gauges


def test_a_peak_is_seen_after_the_memory_is_free_again():
    forget_peaks()
    before = peaks()[0]
    np.ones(25_000_000)  # 200 MB, freed at once
    assert peaks()[0] > before + 150e6
    forget_peaks()
    assert peaks()[0] < before + 50e6


def test_a_part_has_the_seconds_of_the_last_step_and_the_highest_peak(monkeypatch):
    clock, memory = iter([0, 1, 3, 4, 5, 9, 10]), iter([1, 2, 30, 4, 5, 6, 7])
    monkeypatch.setattr(gauges, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    monkeypatch.setattr(gauges, "peaks", lambda: (next(memory), None))
    gauge = PartGauge()
    for _ in range(2):
        with gauge.timed("rollout"):
            pass
        gauge.finish()
    # first step: between 0..1, rollout 1..3 (peak 30), between 3..4; second: between 4..5, rollout 5..9, between 9..10
    assert gauge.parts["rollout"] == Measure(4, 30, None)
    assert gauge.parts["between parts"] == Measure(4, 7, None)


def test_the_table_has_all_seconds_and_the_highest_peaks():
    parts = {"between parts": Measure(1, 5e9, 1e9), "loading": Measure(2.5, 3e9, 8e9)}
    assert [line.split() for line in table(parts)[1:]] == [
        ["loading", "2.50", "3.00", "8.00"],
        ["between", "parts", "1.00", "5.00", "1.00"],
        ["all", "3.50", "5.00", "8.00"],
    ]

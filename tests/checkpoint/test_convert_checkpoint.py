"""tools.convert_checkpoint: there and back bit for bit, merged models, trained adapters, and its refusals.

Each layout also passes through a whole run: load, three GRPO steps, save, load here and with transformers and PEFT.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from transformers import AutoTokenizer, Phi4MultimodalForCausalLM

from swift.cli.rlhf import main as rlhf
from swift.llm.checkpoint.load import load_policy
from tests.support.builders import logits, rlhf_command
from tests.support.remote_checkpoint import remote_tensors, write_native, write_remote
from tools.convert_checkpoint import main


def stored(folder: Path) -> dict[str, tuple[str, bytes]]:
    """Every tensor below ``folder`` by file kind and name: its type and bytes."""
    found = {}
    for file in sorted(folder.rglob("*.safetensors")):
        place = file.parent.relative_to(folder).as_posix()
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 -- safe_open is not a mapping
                value = tensors.get_tensor(name)
                assert (place, name) not in found
                found[place, name] = str(value.dtype), value.contiguous().view(torch.uint8).numpy().tobytes()
    return found


def convert(*words: object) -> None:
    assert main([str(word) for word in words]) == 0


@pytest.fixture(scope="module")
def remote(world, tmp_path_factory) -> Path:
    """Weights in two types, one of them with a NaN that only bits can compare."""
    tensors = remote_tensors()
    tensors["model.embed_tokens_extend.audio_embed.encoder.embed.out.bias"][0] = float("nan")
    tensors = {name: value.bfloat16() if "img_processor" in name else value for name, value in tensors.items()}
    return write_remote(tmp_path_factory.mktemp("convert") / "remote", world / "policy", tensors)


@pytest.fixture(scope="module")
def native(remote) -> Path:
    target = remote.parent / "native"
    convert(remote, target, "--to", "native", "--shard_gb", "0.0001")
    return target


def test_remote_there_and_back_is_the_same_bytes(remote, native, tmp_path):
    convert(native, tmp_path / "back", "--to", "remote")
    assert stored(tmp_path / "back") == stored(remote)
    assert (tmp_path / "back" / "tokenizer.json").read_bytes() == (remote / "tokenizer.json").read_bytes()
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (remote, tmp_path / "back"))
    same = before.keys() - {"auto_map", "vision_lora", "speech_lora", "embd_layer", "audio_processor"}
    assert {name: after[name] for name in same} == {name: before[name] for name in same}
    assert {name: after["vision_lora"][name] for name in ("r", "lora_alpha", "dp")} == {
        "r": 4,
        "lora_alpha": 12,
        "dp": 0,
    }


def test_native_there_and_back_is_the_same_bytes(world, tmp_path):
    source = write_native(tmp_path / "source", world / "policy")
    convert(source, tmp_path / "remote", "--to", "remote", "--shard_gb", "0.0001")
    convert(tmp_path / "remote", tmp_path / "back", "--to", "native")
    assert stored(tmp_path / "back") == stored(source)
    before, after = (load_policy(folder).model.config.to_dict() for folder in (source, tmp_path / "back"))
    assert before == after


def test_a_head_of_its_own_survives_there_and_back(world, tmp_path):
    tensors = remote_tensors() | {"lm_head.weight": remote_tensors()["model.embed_tokens.weight"].clone()}
    source = write_remote(tmp_path / "source", world / "policy", tensors)
    convert(source, tmp_path / "native", "--to", "native")
    convert(tmp_path / "native", tmp_path / "back", "--to", "remote")
    assert stored(tmp_path / "back") == stored(source)


def test_the_native_folder_loads_with_plain_transformers_and_peft(native):
    policy = load_policy(native)
    base = Phi4MultimodalForCausalLM.from_pretrained(native, dtype=policy.model.dtype)
    assert len(AutoTokenizer.from_pretrained(native)) == len(policy.tokenizer)
    model = PeftModel.from_pretrained(base, str(native / "vision-lora"), adapter_name="vision").eval()
    assert (logits(model) - logits(policy.model)).abs().max() < 1e-6


@pytest.mark.parametrize("to", ["native", "remote"])
def test_a_merged_model_answers_as_with_its_adapter(world, tmp_path, to):
    source = write_remote(tmp_path / "source", world / "policy")
    convert(source, tmp_path / "merged", "--to", to, "--merge")
    names = {name for _, name in stored(tmp_path / "merged")}
    assert not any(".lora_" in name or "base_layer" in name for name in names)
    model = load_policy(tmp_path / "merged").model
    assert not getattr(model, "peft_config", {})
    assert (logits(model) - logits(load_policy(source).model)).abs().max() < 1e-5


def test_checksums_are_those_of_the_files_and_are_verified(native, tmp_path, capsys):
    copy = shutil.copytree(native, tmp_path / "copy")
    sums = json.loads((copy / "checksums.json").read_text())
    assert sums["vision-lora/adapter_model.safetensors"] == digest(copy / "vision-lora" / "adapter_model.safetensors")
    assert sums.keys() == {path.relative_to(copy).as_posix() for path in copy.rglob("*") if path.is_file()} - {
        "checksums.json"
    }
    shard = sorted(copy.glob("model-*.safetensors"))[0]
    data = bytearray(shard.read_bytes())
    data[-5] ^= 1
    shard.write_bytes(data)
    for flags in ([], ["--dry_run"]):
        assert main([str(copy), str(tmp_path / "target"), "--to", "remote", *flags]) == 2
        assert f"{shard.name} differ from checksums.json" in capsys.readouterr().err
    assert not (tmp_path / "target").exists()


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_dry_run_says_what_it_would_write_and_writes_nothing(remote, tmp_path, capsys):
    convert(remote, tmp_path / "target", "--to", "native", "--dry_run")
    out = capsys.readouterr().out
    assert "remote-code layout, 127 weights in 3 files" in out
    assert "model.safetensors: 127 tensors" in out
    assert "vision-lora/adapter_model.safetensors: 16 tensors" in out
    assert "dry run" in out
    assert not any(tmp_path.iterdir())


def test_a_target_that_is_not_empty_is_refused(remote, tmp_path, capsys):
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "mine.txt").write_text("keep")
    assert main([str(remote), str(tmp_path / "target"), "--to", "native"]) == 2
    assert "exists and is not an empty folder; name another target" in capsys.readouterr().err
    assert (tmp_path / "target" / "mine.txt").read_text() == "keep"


def test_a_failure_leaves_nothing_behind(remote, tmp_path, capsys):
    copy = shutil.copytree(remote, tmp_path / "source")
    (copy / "preprocessor_config.json").write_text("{")
    assert main([str(copy), str(tmp_path / "out" / "target"), "--to", "native"]) == 2
    assert "preprocessor_config.json cannot be read" in capsys.readouterr().err
    assert not any((tmp_path / "out").iterdir())


def test_microsofts_code_is_taken_along_when_it_is_there(remote, native, tmp_path, capsys):
    code = tmp_path / "code"
    code.mkdir()
    assert main([str(native), str(tmp_path / "a"), "--to", "remote", "--code", str(code)]) == 2
    assert "holds no modeling_phi4mm.py" in capsys.readouterr().err
    (code / "modeling_phi4mm.py").write_text("raise SystemExit('run')")
    convert(native, tmp_path / "b", "--to", "remote", "--code", code)
    assert (tmp_path / "b" / "modeling_phi4mm.py").exists()


@pytest.mark.parametrize("layout", ["remote", "native"])
@pytest.mark.parametrize("full", [False, True])
def test_each_layout_trains_saves_and_loads(world, tmp_path, layout, full):
    """Load, three GRPO steps that also train the head, save, load here and with plain transformers and PEFT."""
    start = (write_remote if layout == "remote" else write_native)(tmp_path / "start", world / "policy")
    flags = {"model": start, "save_full": full, "trainable": r"\.lora_[AB]\.vision\.|lm_head", "save_only_model": True}
    assert rlhf(rlhf_command(world, tmp_path / "run", **flags)) == 0
    saved = tmp_path / "run" / "checkpoint-3"
    policy = load_policy(saved)
    found = logits(policy.model)
    assert (found - logits(load_policy(start).model)).abs().max() > 1e-3
    assert (saved / "model.safetensors").exists() is full
    if full:
        base, adapter = saved, saved / "vision-lora"
    else:
        base, adapter = start, saved
        if layout == "remote":
            base = tmp_path / "base"
            convert(start, base, "--to", "native")
    plain = PeftModel.from_pretrained(
        Phi4MultimodalForCausalLM.from_pretrained(base), str(adapter), adapter_name="vision"
    ).eval()
    assert (logits(plain) - found).abs().max() < 1e-6
    convert(saved, tmp_path / "out", "--to", "remote")
    assert torch.equal(logits(load_policy(tmp_path / "out").model), found)
    card = (saved / "README.md").read_text()
    for words in (f"| base | {start} |", "train.json", "external_r1v_acc x 1", "| step | 3 |", "| commit |"):
        assert words in card


@pytest.mark.parametrize("only_model", [False, True])
def test_save_only_model_false_keeps_optimizer_and_random_state(world, tmp_path, only_model):
    flags = {"max_steps": 1, "save_only_model": only_model}
    assert rlhf(rlhf_command(world, tmp_path / "run", **flags)) == 0
    found = {path.name for path in (tmp_path / "run" / "checkpoint-1").iterdir()}
    state = {"optimizer.pt", "scheduler.pt", "rng_state.pth"}
    assert found & state == (set() if only_model else state)

"""Fine-tuning: the loss is the cross-entropy of the solutions, it falls, and what is saved is what was trained."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import Phi4MultimodalForCausalLM

from swift.cli.sft import main
from swift.engine.batch import collate_prompts
from swift.llm.checkpoint.load import load_policy
from swift.trainers.sft_trainer import SFTTrainer
from swift.utils.errors import UserError
from tests.support.builders import logits
from tests.support.sft_runs import RECORDS, make_trainer, sft_command


def losses(checkpoint: Path) -> list[float]:
    history = json.loads((checkpoint / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry]


def trained(trainer: SFTTrainer) -> set[str]:
    return {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}


@pytest.fixture(scope="module")
def full(world, tmp_path_factory) -> SFTTrainer:
    """A finished run that trained every weight, still in memory."""
    trainer = make_trainer(world, tmp_path_factory.mktemp("full"))
    trainer.train()
    trainer.model.eval()
    return trainer


@pytest.fixture(scope="module")
def bare(world, tmp_path_factory) -> Path:
    """The world with a policy without an adapter."""
    folder = tmp_path_factory.mktemp("bare")
    shutil.copytree(world, folder, dirs_exist_ok=True)
    shutil.rmtree(folder / "policy" / "vision-lora")
    return folder


def test_loss_falls(world, tmp_path):
    """The three solutions share most of their words, so thirty steps learn them nearly by heart."""
    assert main(sft_command(world, tmp_path / "run", max_steps=30)) == 0
    curve = losses(tmp_path / "run" / "checkpoint-30")
    assert len(curve) == 30
    assert curve[-1] < 0.5 * curve[0]
    assert (tmp_path / "run" / "args.json").is_file()
    assert (tmp_path / "run" / "curves.png").is_file()


def test_first_loss_is_the_cross_entropy_of_all_solution_tokens(full, world):
    """The reference takes one record per forward, and counts the end token but no prompt token."""
    start = load_policy(world / "policy").model
    total, count = 0.0, 0
    for (item,) in (full.train_dataset[index] for index in range(RECORDS)):
        prompt = collate_prompts([item.prompt], 0)
        solution = torch.tensor(full.template.encode_completion(item.record.solution))
        with torch.no_grad():
            output = start(torch.cat([prompt.input_ids[0], solution])[None], **prompt.image_inputs()).logits[0]
        total += float(cross_entropy(output[-len(solution) - 1 : -1], solution, reduction="sum"))
        count += len(solution)
    assert full.state.log_history[0]["loss"] == pytest.approx(total / count, abs=1e-5)


def test_full_checkpoint_loads_back_as_the_policy_in_memory(full, world):
    checkpoint = Path(full.args.output_dir) / "checkpoint-2"
    loaded = load_policy(checkpoint)
    assert (logits(loaded.model) - logits(full.model)).abs().max() < 1e-6
    assert (logits(loaded.model) - logits(load_policy(world / "policy").model)).abs().max() > 1e-2
    assert loaded.model.config.tie_word_embeddings is True


def test_full_checkpoint_loads_with_plain_transformers(full):
    checkpoint = Path(full.args.output_dir) / "checkpoint-2"
    model = Phi4MultimodalForCausalLM.from_pretrained(checkpoint)
    model.load_adapter(str(checkpoint / "vision-lora"), adapter_name="vision")
    assert (logits(model.eval()) - logits(full.model)).abs().max() < 1e-6


def test_two_micro_batches_make_one_big_step(full, world, tmp_path):
    parts = make_trainer(world, tmp_path, per_device_train_batch_size=RECORDS // 2, gradient_accumulation_steps=2)
    parts.train()
    expected = [entry["loss"] for entry in full.state.log_history if "loss" in entry]
    assert losses(tmp_path / "checkpoint-2") == pytest.approx(expected, abs=1e-5)
    weights = dict(parts.model.named_parameters())
    # Attention does not depend on the bias of keys. Adam makes up to a whole step of the rounding of its gradient.
    steps_of_rounding = 2 * full.state.global_step * full.args.learning_rate
    for name, value in full.model.named_parameters():
        tolerance = steps_of_rounding if name.endswith("k_proj.bias") else 1e-4
        assert torch.allclose(value, weights[name], atol=tolerance), name


def test_a_run_of_full_training_resumes_to_the_same_weights(full, world, tmp_path):
    assert main(sft_command(world, tmp_path, save_steps=1)) == 0
    shutil.rmtree(tmp_path / "checkpoint-2")
    assert main(sft_command(world, tmp_path, save_steps=1, resume_from_checkpoint=True)) == 0
    for name in ("model.safetensors", "vision-lora/adapter_model.safetensors"):
        expected = Path(full.args.output_dir) / "checkpoint-2" / name
        assert (tmp_path / "checkpoint-2" / name).read_bytes() == expected.read_bytes(), name


@pytest.mark.parametrize(
    ("flags", "pattern"),
    [
        ({"train_type": "dummy"}, r"\.lora_[AB]\.vision\."),
        ({"train_type": "full"}, ""),
        ({"train_type": "dummy", "trainable": "image_embed"}, "image_embed"),
        ({"train_type": "full", "trainable": r"layers\.1\..*lora_B"}, r"layers\.1\..*lora_B"),
    ],
    ids=["dummy", "full", "regex over dummy", "regex over full"],
)
def test_exactly_what_the_flags_choose_trains(world, tmp_path, flags, pattern):
    trainer = make_trainer(world, tmp_path, **flags)
    names = [name for name, _ in trainer.model.named_parameters()]
    expected = {name for name in names if re.search(pattern, name)}
    assert trained(trainer) == expected
    assert expected


def test_a_tied_head_can_train_without_the_input_embedding(world, tmp_path):
    trainer = make_trainer(world, tmp_path, trainable="lm_head")
    assert trained(trainer) == {"lm_head.weight"}
    assert trainer.model.config.tie_word_embeddings is False


def test_train_type_lora_adds_adapters_that_load_back(bare, tmp_path):
    trainer = make_trainer(bare, tmp_path, train_type="lora", lora_rank=2, lora_alpha=6)
    # 3 layers of 4 linear maps, each with an A and a B.
    assert len(trained(trainer)) == 3 * 4 * 2
    assert all(".lora_A.vision." in name or ".lora_B.vision." in name for name in trained(trainer))
    trainer.train()
    config = json.loads((tmp_path / "checkpoint-2" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (2, 6)
    loaded = load_policy(tmp_path / "checkpoint-2").model
    assert (logits(loaded) - logits(trainer.model.eval())).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"trainable": "audio_tower"}, "--trainable audio_tower matches no parameter"),
        ({"train_type": "lora"}, "carries adapters already; use --train_type dummy"),
    ],
)
def test_a_choice_that_cannot_be_made_is_one_line(world, tmp_path, capsys, flags, words):
    assert main(sft_command(world, tmp_path, **flags)) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert words in line


def test_train_type_dummy_needs_adapters(bare, tmp_path):
    with pytest.raises(UserError, match="--train_type dummy matches no parameter; the checkpoint carries no such"):
        make_trainer(bare, tmp_path, train_type="dummy")


def test_validation_loss_is_the_training_loss_of_the_same_records(full, world, tmp_path):
    """With eval_on_start both are figures of the starting weights."""
    validation = {"val_dataset": world / "data" / "train.json", "eval_strategy": "steps", "eval_on_start": True}
    trainer = make_trainer(world, tmp_path, max_steps=1, per_device_eval_batch_size=5, **validation)
    trainer.train()
    assert trainer.state.log_history[0]["eval_loss"] == pytest.approx(full.state.log_history[0]["loss"], abs=1e-5)

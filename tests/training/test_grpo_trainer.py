"""A GRPO run in this process: the weights that change, the files it writes, and the checkpoint it leaves."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import Phi4MultimodalForCausalLM

from swift.engine.batch import collate_completions, collate_prompts
from swift.engine.probe import Paths
from swift.llm.checkpoint.load import load_policy
from swift.trainers.rlhf_trainer.advantages import combine_rewards, group_advantages
from swift.trainers.rlhf_trainer.grpo_trainer import GRPOTrainer
from swift.trainers.rlhf_trainer.loss import clipped_surrogate, k3_kl
from swift.utils.errors import UserError
from tests.support.builders import logits
from tests.support.grpo_runs import make_trainer
from tests.support.slow_logprobs import logps_one_by_one

STEPS = 3


@pytest.fixture(scope="module")
def run(world, tmp_path_factory):
    """A finished run of three steps, its trainer still in memory."""
    trainer = make_trainer(world, tmp_path_factory.mktemp("run"))
    trainer.train()
    return trainer


@pytest.fixture(scope="module")
def rows(run):
    lines = (Path(run.args.output_dir) / "completions.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def checkpoint(run) -> Path:
    return Path(run.args.output_dir) / f"checkpoint-{STEPS}"


def canonical(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.replace(".base_layer.", "."): value for name, value in state.items()}


def test_only_vision_lora_and_head_change(run, world):
    before = canonical(load_policy(world / "policy").model.state_dict())
    after = canonical(run.model.state_dict())
    assert before.keys() == after.keys()
    changed = {name for name, value in after.items() if value.numpy().tobytes() != before[name].numpy().tobytes()}
    assert changed == {name for name in after if ".lora_" in name or name == "lm_head.weight"}


def test_checkpoint_says_that_the_head_is_untied(run):
    assert json.loads((checkpoint(run) / "config.json").read_text())["tie_word_embeddings"] is False
    assert json.loads((checkpoint(run) / "adapter_config.json").read_text())["modules_to_save"] == ["lm_head"]


def test_checkpoint_loads_back_as_the_policy_in_memory(run, world):
    run.model.eval()
    loaded = logits(load_policy(checkpoint(run)).model)
    assert (loaded - logits(run.model)).abs().max() < 1e-6
    assert (loaded - logits(load_policy(world / "policy").model)).abs().max() > 1e-2


def test_checkpoint_loads_with_plain_transformers_and_peft(run, world):
    run.model.eval()
    base = Phi4MultimodalForCausalLM.from_pretrained(world / "policy")
    loaded = PeftModel.from_pretrained(base, str(checkpoint(run)), adapter_name="vision").eval()
    assert (logits(loaded) - logits(run.model)).abs().max() < 1e-6


def test_a_run_folder_stands_for_its_newest_checkpoint(run):
    loaded = load_policy(run.args.output_dir)
    assert torch.equal(logits(loaded.model), logits(load_policy(checkpoint(run)).model))


def test_every_completion_is_logged_with_the_documented_fields(rows):
    assert len(rows) == STEPS * 8
    documented = {"step", "prompt", "completion", "per_token_logps", "raw_completion_tokens", "rewards"}
    for row in rows:
        assert documented | {"group", "advantage", "idx"} <= row.keys()
        assert set(row["rewards"]) == {"external_r1v_acc", "external_kg_jac", "vowels"}


def test_logged_tokens_join_to_the_text(rows):
    for row in rows:
        assert "".join(row["raw_completion_tokens"][0]) == row["completion"]
        assert len(row["raw_completion_tokens"][0]) == len(row["per_token_logps"][0]) == len(row["token_ids"])


def test_logged_log_probabilities_are_reproduced_from_scratch(run, rows, world):
    """Step 1 is scored by the starting policy, so one forward per completion gives the same numbers."""
    start = load_policy(world / "policy").model
    items = {item.record.columns["idx"]: item for item in (run.train_dataset[i] for i in range(12))}
    for row in rows[:8]:
        prompts = collate_prompts([items[row["idx"]].prompt], 0)
        completions = collate_completions([row["token_ids"]], 0)
        expected = logps_one_by_one(start, prompts, completions, run.args.temperature)[0].tolist()
        assert row["per_token_logps"][0] == pytest.approx(expected, abs=1e-5)


def test_logged_advantages_follow_from_logged_rewards(rows):
    for start in range(0, len(rows), 4):
        group = rows[start : start + 4]
        assert len({row["group"] for row in group}) == 1
        totals = combine_rewards(torch.tensor([list(row["rewards"].values()) for row in group]), torch.ones(3))
        expected, _ = group_advantages(totals, 4)
        assert [row["advantage"] for row in group] == pytest.approx(expected.tolist(), abs=1e-5)


def test_logged_loss_is_the_formula_over_all_tokens_of_the_step(run, rows, world):
    """In step 1 the policy is its own old policy and reference. Ratio 1 and KL 0 leave the token mean of -A."""
    first = rows[:8]
    tokens = sum(len(row["token_ids"]) for row in first)
    expected = -sum(row["advantage"] * len(row["token_ids"]) for row in first) / tokens
    assert run.state.log_history[0]["loss"] == pytest.approx(expected, abs=1e-5)
    assert run.state.log_history[0]["kl"] == pytest.approx(0, abs=1e-6)


def test_log_carries_the_documented_metrics(run):
    names = {"reward", "reward_std", "kl", "clip_ratio", "completion_length", "completion_length_min"}
    names |= {"completion_length_max", "rewards/external_r1v_acc", "rewards/external_kg_jac", "rewards/vowels"}
    names |= {"seconds/rollout", "seconds/reward", "seconds/update"}
    assert names <= run.state.log_history[0].keys()


def test_signs_of_gaming_are_logged_with_the_rewards(run):
    logged = [entry for entry in run.state.log_history if "loss" in entry]
    names = {"signs/contradictory", "signs/against_answer", "signs/restates", "signs/empty_unions"}
    assert all(0 <= entry[name] <= 1 for entry in logged for name in names - {"signs/empty_unions"})
    # A mean without observations is left out: this share has none in a step whose graph reward is 0.
    assert all(("signs/empty_unions" in entry) == (entry["rewards/external_kg_jac"] > 0) for entry in logged)


def test_groups_stay_whole_in_gradient_accumulation(world, tmp_path):
    """Two micro-batches of one group give the loss and the weights of one micro-batch of two groups."""
    whole = make_trainer(world, tmp_path / "whole", max_steps=2)
    parts = make_trainer(
        world, tmp_path / "parts", max_steps=2, per_device_train_batch_size=4, gradient_accumulation_steps=2
    )
    whole.train()
    parts.train()
    for a, b in zip(whole.state.log_history[:2], parts.state.log_history[:2], strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-5)
    weights = dict(parts.model.named_parameters())
    for name, value in whole.model.named_parameters():
        assert torch.allclose(value, weights[name], atol=1e-4), name


def test_a_model_without_shared_caches_samples_the_same_completions(world, tmp_path, monkeypatch):
    runs = []
    for shared in (True, False):
        monkeypatch.setattr(GRPOTrainer, "probe", lambda self, shared=shared: Paths(packed=True, shared=shared))
        trainer = make_trainer(world, tmp_path / str(shared), max_steps=1)
        trainer.train()
        lines = (tmp_path / str(shared) / "completions.jsonl").read_text().splitlines()
        runs.append([json.loads(line)["token_ids"] for line in lines])
    assert runs[0] == runs[1]


def test_a_rollout_that_the_policy_would_not_say_ends_the_run(world, tmp_path, monkeypatch):
    trainer = make_trainer(world, tmp_path, max_steps=1, max_completion_length=24)
    sample = trainer._generate

    def another(prompts, group_size, sampling, uniforms=None):
        return sample(prompts, group_size, replace(sampling, temperature=0.02), uniforms)

    monkeypatch.setattr(trainer, "_generate", another)
    with pytest.raises(UserError, match="not what the policy would say"):
        trainer.train()


def test_second_use_of_a_rollout_is_off_policy(world, tmp_path):
    """With num_iterations 2 each rollout is used twice, and the second time the ratio is no longer 1."""
    trainer = make_trainer(world, tmp_path, num_iterations=2, max_steps=4, save_steps=2, epsilon=1e-4)
    trainer.train()
    rows = [json.loads(line) for line in (tmp_path / "completions.jsonl").read_text().splitlines()]
    by_step = {step: [row["token_ids"] for row in rows if row["step"] == step] for step in (1, 2, 3, 4)}
    assert by_step[1] == by_step[2] != by_step[3] == by_step[4]
    clipped = [entry["clip_ratio"] for entry in trainer.state.log_history[:4]]
    assert clipped[0] == clipped[2] == 0
    assert clipped[1] > 0
    assert clipped[3] > 0


def test_off_policy_loss_equals_the_formula(world, tmp_path):
    trainer = make_trainer(world, tmp_path, num_iterations=2, max_steps=2, save_steps=2)
    trainer.train()
    first, second = (trainer._micro_batches[0], trainer.state.log_history[1]["loss"])
    rows = [json.loads(line) for line in (tmp_path / "completions.jsonl").read_text().splitlines()][8:]
    mask = first.rollout.loss_mask
    logps = torch.zeros(mask.shape)
    logps[mask] = torch.tensor([value for row in rows for value in row["per_token_logps"][0]])
    loss, _ = clipped_surrogate(logps, first.old_logps, first.rollout.advantages, trainer.args.epsilon)
    loss = loss + trainer.args.beta * k3_kl(logps, first.reference_logps)
    assert second == pytest.approx(float(loss[mask].mean()), abs=1e-5)


def test_dynamic_sampling_replaces_flat_groups(world, tmp_path):
    """Accuracy is 0 for every random text, so every group is flat. After two attempts nothing counts in the loss."""
    trainer = make_trainer(
        world, tmp_path, reward_funcs="external_r1v_acc", dynamic_sample=True, max_resample_times=2, max_steps=1
    )
    attempts = []
    roll_out = trainer._roll_out
    trainer._roll_out = lambda items, attempt: attempts.append((attempt, len(items))) or roll_out(items, attempt)
    trainer.train()
    assert attempts == [(0, 2), (1, 2), (2, 2)]
    assert trainer.state.log_history[0]["dropped_groups"] == 1.0
    rows = [json.loads(line) for line in (tmp_path / "completions.jsonl").read_text().splitlines()]
    assert not any(row["in_loss"] for row in rows)


def test_dynamic_sampling_keeps_groups_with_spread(world, tmp_path):
    trainer = make_trainer(
        world,
        tmp_path,
        reward_funcs="vowels",
        dynamic_sample=True,
        min_group_std=0.02,
        max_resample_times=9,
        max_steps=1,
    )
    trainer.train()
    rows = [json.loads(line) for line in (tmp_path / "completions.jsonl").read_text().splitlines()]
    for start in (0, 4):
        rewards = torch.tensor([row["rewards"]["vowels"] for row in rows[start : start + 4]])
        assert rewards.std() > 0.02
        assert all(row["in_loss"] for row in rows[start : start + 4])


def test_overlong_filter_leaves_truncated_completions_out(world, tmp_path):
    trainer = make_trainer(world, tmp_path, overlong_filter=True, max_steps=2)
    trainer.train()
    rows = [json.loads(line) for line in (tmp_path / "completions.jsonl").read_text().splitlines()]
    assert all(row["in_loss"] == row["finished"] for row in rows)


def test_validation_scores_every_prompt_once(world, tmp_path):
    trainer = make_trainer(
        world, tmp_path, val_dataset=world / "data" / "train.json", eval_strategy="steps", eval_steps=2, max_steps=2
    )
    seen = []
    observe = trainer.observe_validation
    trainer.observe_validation = lambda items, means: seen.extend(i.index for i in items) or observe(items, means)
    trainer.train()
    assert sorted(seen) == list(range(12))
    figures = next(entry for entry in trainer.state.log_history if "eval_reward" in entry)
    assert {"eval_rewards/vowels", "eval_completion_length"} <= figures.keys()

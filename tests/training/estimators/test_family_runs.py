"""Runs with the flags of the GRPO family: what they sample, what they learn from, and what they log."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from swift.trainers.data import PromptOrder
from swift.trainers.reference import Snapshot
from tests.support.builders import ROOT, TORCHRUN, rlhf_command, run_python
from tests.support.grpo_runs import make_trainer

# A reward that logs a metric of its own under a name of each process.
LOGGING_PLUGIN = """
import os
from swift.plugin import orms


def logging(completions, log_metric, **columns):
    log_metric(f"own/rank{os.environ.get('RANK', 0)}", len(completions))
    return [0.0] * len(completions)


orms["logging"] = logging
"""


def rows_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "completions.jsonl").read_text(encoding="utf-8").splitlines()]


def losses(trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def run(world, folder, **flags):
    trainer = make_trainer(world, folder, **flags)
    trainer.train()
    return trainer


@pytest.mark.parametrize(
    "flags",
    [
        {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 3e-4, "epsilon_high": 4e-4},
        {"loss_type": "cispo", "epsilon_high": 1.05, "advantage_estimator": "rloo"},
        {"loss_type": "sapo", "scale_rewards": "gdpo"},
        {"loss_type": "dapo", "vision_weights": True, "vision_top_share": 0.4, "top_entropy_quantile": 0.8},
        {"loss_type": "dr_grpo", "advantage_estimator": "reinforce_plus_plus", "top_entropy_quantile": 0.4},
    ],
    ids=lambda flags: flags["loss_type"],
)
def test_the_division_of_a_step_changes_no_loss(world, tmp_path, flags):
    """Two uses of each rollout. One run takes both groups in one forward, the other a group per micro-batch, a part of
    the group per mini-batch, and slices of the group."""
    flags = {"num_iterations": 2, "max_steps": 2, "save_steps": 2, "learning_rate": 1e-3, **flags}
    flags |= {"overlong_filter": True, "max_completion_length": 60}  # some completions are truncated, and do not count
    whole = run(world, tmp_path / "whole", **flags)
    divided = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "mini_batch_size": 2}
    parts = run(world, tmp_path / "parts", **flags, **divided, tokens_per_pass=7)
    assert losses(parts) == pytest.approx(losses(whole), abs=1e-5)
    assert losses(whole)[0] != losses(whole)[1]
    assert len({row["in_loss"] for row in rows_of(tmp_path / "whole")}) == 2
    for entry, other in zip(whole.state.log_history[:2], parts.state.log_history[:2], strict=True):
        assert other["grad_norm"] == pytest.approx(entry["grad_norm"], rel=1e-3)
        assert entry.keys() == other.keys()


def test_a_rollout_serves_several_steps_with_other_completions(world, tmp_path):
    """Steps 1 and 2 are sampled at once, so step 2 is off-policy. Every prompt of an epoch is used once."""
    trainer = run(world, tmp_path, steps_per_generation=2, max_steps=6, save_steps=2, epsilon=1e-4)
    logged = trainer.state.log_history[:6]
    assert [entry["seconds/rollout"] > 0 for entry in logged] == [True, False] * 3
    assert [entry["clip_ratio"] > 0 for entry in logged] == [False, True] * 3
    assert sorted(row["idx"] for row in rows_of(tmp_path)) == sorted(list(range(12)) * 4)


def test_rollouts_for_several_steps_keep_the_order_of_prompts_and_fill_the_last_block():
    plain, blocks = PromptOrder(10, 0, 2), PromptOrder(10, 0, 4, whole_blocks=True)
    assert list(blocks) == [*plain, *list(plain)[:2]]


def test_iterations_repeat_all_steps_of_a_rollout(world, tmp_path):
    run(world, tmp_path, steps_per_generation=2, num_iterations=2, max_steps=4, save_steps=4)
    by_step = {step: [row["token_ids"] for row in rows_of(tmp_path) if row["step"] == step] for step in (1, 2, 3, 4)}
    assert by_step[1] == by_step[3] != by_step[2] == by_step[4]


def test_the_kl_in_the_reward_is_not_in_the_loss(world, tmp_path):
    """In the first step p is q, so nothing is taken off. Later the advantages are of the rewards without the KL."""
    trainer = run(world, tmp_path, kl_in_reward=True, beta=2.0, scale_rewards="none", max_steps=2)
    batch = trainer._micro_batches[0]
    tokens = batch.rollout.completions.mask
    penalty = 2.0 * torch.where(tokens, batch.old_logps - batch.reference_logps, 0).sum(dim=1)
    assert penalty.abs().max() > 1e-3
    totals = (batch.rollout.rewards.nansum(dim=1) - penalty).view(-1, 4)
    expected = (totals - totals.mean(dim=1, keepdim=True)).flatten()
    assert torch.allclose(batch.rollout.advantages, expected, atol=1e-5)
    lengths = batch.rollout.completions.lengths
    assert losses(trainer)[1] == pytest.approx(-float((expected * lengths).sum() / lengths.sum()), abs=1e-5)


def test_the_share_of_masked_tokens_is_logged(world, tmp_path):
    trainer = run(world, tmp_path, top_entropy_quantile=0.25, max_steps=1)
    tokens = sum(len(row["token_ids"]) for row in rows_of(tmp_path))
    assert trainer.state.log_history[0]["masked_tokens"] == pytest.approx(0.75, abs=1 / tokens)


def test_the_spread_of_each_reward_is_that_over_all_completions(world, tmp_path):
    trainer = run(world, tmp_path, reward_funcs="vowels", max_steps=1)
    rewards = torch.tensor([row["rewards"]["vowels"] for row in rows_of(tmp_path)])
    assert trainer.state.log_history[0]["rewards/vowels/std"] == pytest.approx(float(rewards.std()), rel=1e-4)


# Flat groups: random texts earn nothing of external_r1v_acc, and the solutions earn 1.


def test_flat_groups_can_be_dropped(world, tmp_path):
    trainer = run(world, tmp_path, reward_funcs="external_r1v_acc", flat_groups="drop", max_steps=1)
    assert trainer.state.log_history[0]["flat_groups"] == 1.0
    assert not any(row["in_loss"] for row in rows_of(tmp_path))


def test_a_flat_group_learns_from_its_solution(world, tmp_path):
    """The first margin is 0, so the loss is ln 2. Every group has one solution and one worst answer, and after a step
    the policy prefers the solution."""
    flags = {"reward_funcs": "external_r1v_acc", "max_completion_length": 60, "learning_rate": 1e-3, "max_steps": 2}
    trainer = run(world, tmp_path, flat_groups="dpo", num_iterations=2, save_steps=2, **flags)
    first, second = trainer.state.log_history[:2]
    assert (first["flat_groups"], first["dpo_groups"]) == (1.0, 1.0)
    assert first["loss"] == pytest.approx(0.693147, abs=1e-5)
    assert first["dpo_accuracy"] == 0.0
    assert second["dpo_accuracy"] == 1.0
    assert second["loss"] == pytest.approx(second["dpo_loss"], abs=1e-5)
    assert second["loss"] < first["loss"]
    group = [row for row in rows_of(tmp_path) if row["step"] == 1][:4]
    assert sorted(row.get("preference", 0) for row in group) == [-1, 0, 0, 1]
    (taught,) = (row for row in group if row.get("preference") == 1)
    assert taught["completion"] == taught["solution"]
    assert taught["rewards"] == {"external_r1v_acc": 1.0}


def test_pairs_in_parts_of_a_group_have_the_loss_of_the_whole(world, tmp_path):
    flags = {"reward_funcs": "external_r1v_acc", "max_completion_length": 60, "flat_groups": "dpo", "max_steps": 2}
    whole = run(world, tmp_path / "whole", **flags)
    parts = run(world, tmp_path / "parts", **flags, mini_batch_size=1, tokens_per_pass=30)
    assert losses(parts) == pytest.approx(losses(whole), abs=1e-5)
    assert parts.state.log_history[0]["grad_norm"] == pytest.approx(whole.state.log_history[0]["grad_norm"], rel=1e-3)


def test_a_group_that_is_as_good_as_its_solution_learns_nothing_from_it(world, tmp_path):
    trainer = run(world, tmp_path, reward_funcs="external_math_format", flat_groups="dpo", max_completion_length=2)
    assert trainer.state.log_history[0]["flat_groups"] == 1.0
    assert trainer.state.log_history[0]["dpo_groups"] == 0.0  # a solution has more than two tokens


# The reference that moves


def test_the_reference_moves_towards_the_policy():
    model = torch.nn.Linear(2, 1)
    snapshot = Snapshot.of(model)
    before = snapshot.values["weight"].clone()
    with torch.no_grad():
        model.weight += 1
    snapshot.mix(model, 0.25)
    assert torch.allclose(snapshot.values["weight"], before + 0.25)


def test_a_run_with_a_moving_reference_resumes_to_the_same_numbers(world, tmp_path):
    flags = {"sync_ref_model": True, "ref_model_sync_steps": 2, "ref_model_mixup_alpha": 1.0, "save_steps": 3}
    whole = run(world, tmp_path / "whole", **flags, max_steps=5)
    kl = [entry["kl"] for entry in whole.state.log_history[:5]]
    assert [value < 1e-6 for value in kl] == [True, False, True, False, True]  # 0 after each move
    checkpoint = tmp_path / "whole" / "checkpoint-3"
    resumed = make_trainer(world, tmp_path / "resumed", **flags, max_steps=5)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert losses(resumed)[3:] == losses(whole)[3:]


# Validation, processes and trackers


def test_validation_samples_as_many_answers_as_asked_for(world, tmp_path):
    data = world / "data" / "train.json"
    flags = {"val_dataset": data, "eval_steps": 1, "reward_funcs": "vowels", "learning_rate": 0, "max_steps": 2}
    trainer = run(world, tmp_path, num_generations_eval=3, **flags)
    first, second = (entry for entry in trainer.state.log_history if "eval_reward" in entry)
    assert first["eval_reward_std"] > 0
    assert first["eval_reward"] == second["eval_reward"]  # the same random numbers at every step


def test_two_processes_have_the_losses_of_one(world, tmp_path):
    """Batch statistics, the threshold of entropy, divisors and preferences are those of both processes, and the metrics
    that rewards log are those of each."""
    (tmp_path / "own_metric.py").write_text(LOGGING_PLUGIN)
    flags = {
        "external_plugins": [ROOT / "plugin.py", world / "vowels.py", tmp_path / "own_metric.py"],
        "reward_funcs": ["external_r1v_acc", "vowels", "logging"], "loss_type": "grpo", "scale_rewards": "batch",
        "steps_per_generation": 2, "top_entropy_quantile": 0.5, "flat_groups": "dpo", "min_group_std": 0.05,
        "max_completion_length": 60, "max_steps": 2, "save_steps": 2,
    }  # fmt: skip
    one = run(world, tmp_path / "one", per_device_train_batch_size=16, **flags)
    command = rlhf_command(world, tmp_path / "two", **flags)
    result = run_python("swift.cli.rlhf", *command, launcher=TORCHRUN, FREEZE_NON_VISION_PARAMS="1")
    assert result.returncode == 0, result.stderr
    state = json.loads((tmp_path / "two" / "checkpoint-2" / "trainer_state.json").read_text())
    expected = [entry for entry in one.state.log_history if "loss" in entry]
    assert 0 < expected[0]["dpo_groups"] < 1
    for entry, other in zip(expected, state["log_history"][:2], strict=True):
        names = {name for name in entry if not name.startswith(("seconds/", "own/"))}
        assert {name: other[name] for name in names} == pytest.approx({name: entry[name] for name in names}, abs=1e-4)
    first = state["log_history"][0]
    assert (expected[0]["own/rank0"], first["own/rank0"], first["own/rank1"]) == (32.0, 16.0, 16.0)


def test_tensorboard_holds_the_metrics_of_a_run(world, tmp_path):
    trainer = run(world, tmp_path, report_to="tensorboard", max_steps=2)
    (folder,) = (tmp_path / "runs").iterdir()
    events = EventAccumulator(str(folder)).Reload()
    for step, entry in enumerate(trainer.state.log_history[:2]):
        for name in ("loss", "reward", "rewards/vowels", "rewards/vowels/std", "clip_ratio/low_mean", "kl"):
            assert events.Scalars(f"train/{name}")[step].value == pytest.approx(entry[name], abs=1e-6)

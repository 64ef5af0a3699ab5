"""Flags of ms-swift in a run: mini-batches, the order of records, stop words, penalties, and weights of another run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from swift.cli.rlhf import main
from swift.engine.rollout.stop_words import RepetitionPenalty, StopWords
from swift.engine.sampling import Sampling, generate
from swift.llm.checkpoint.load import load_policy
from swift.trainers.data import PromptOrder
from tests.support.builders import IMAGE_TOKEN, PAD, STOPS, logits, random_prompts, rlhf_command, tiny_model
from tests.support.grpo_runs import make_trainer


def rows_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "completions.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def whole(world, tmp_path_factory):
    trainer = make_trainer(world, tmp_path_factory.mktemp("whole"), max_steps=2, num_iterations=2)
    trainer.train()
    return trainer


@pytest.mark.parametrize("size", [1, 2, 4])
def test_mini_batches_change_no_loss_and_no_weight(world, tmp_path, whole, size):
    """G is 4 and a batch 8: a block of 1 or 2 completions is a part of a group, one of 4 a whole group. Two uses of
    each rollout make the old log-probabilities count as well."""
    trainer = make_trainer(world, tmp_path, max_steps=2, num_iterations=2, mini_batch_size=size)
    trainer.train()
    expected = [entry["loss"] for entry in whole.state.log_history if "loss" in entry]
    assert [entry["loss"] for entry in trainer.state.log_history if "loss" in entry] == pytest.approx(
        expected, abs=1e-5
    )
    assert (logits(trainer.model) - logits(whole.model)).abs().max() < 1e-3
    sampled = [row["token_ids"] for row in rows_of(Path(whole.args.output_dir))]
    assert [row["token_ids"] for row in rows_of(tmp_path)] == sampled


def test_advantages_without_division_are_differences_to_the_mean(world, tmp_path):
    trainer = make_trainer(world, tmp_path, max_steps=1, scale_rewards="none")
    trainer.train()
    group = rows_of(tmp_path)[:4]
    totals = torch.tensor([sum(row["rewards"].values()) for row in group])
    assert [row["advantage"] for row in group] == pytest.approx((totals - totals.mean()).tolist(), abs=1e-5)


def test_records_keep_the_order_of_the_file_if_they_are_not_shuffled(world, tmp_path):
    trainer = make_trainer(world, tmp_path, max_steps=3, dataset_shuffle=False)
    trainer.train()
    indexes = [row["idx"] for row in rows_of(tmp_path)]
    assert indexes == [index for index in range(6) for _ in range(4)]


def test_data_seed_decides_the_order(world, tmp_path):
    trainer = make_trainer(world, tmp_path, data_seed=5)
    trainer.get_train_dataloader()
    assert list(trainer.order) == list(PromptOrder(12, seed=5, block=2))


def test_a_run_can_begin_with_the_weights_of_another(world, tmp_path):
    first = rlhf_command(world, tmp_path / "first", max_steps=1, trainable="lora")
    assert main(first) == 0
    checkpoint = tmp_path / "first" / "checkpoint-1"
    more = {"resume_from_checkpoint": checkpoint, "resume_only_model": True, "learning_rate": 0, "trainable": "lora"}
    assert main(rlhf_command(world, tmp_path / "second", max_steps=1, **more)) == 0
    state = json.loads((tmp_path / "second" / "checkpoint-1" / "trainer_state.json").read_text())
    assert state["global_step"] == 1
    before, after = (logits(load_policy(tmp_path / name / "checkpoint-1").model) for name in ("first", "second"))
    assert torch.allclose(before, after, atol=1e-5)
    kl = [entry["kl"] for entry in state["log_history"] if "kl" in entry]
    assert kl[0] > 1e-4  # the reference is still the model that the first run began with


def test_the_folder_of_another_run_is_not_taken_for_weights_alone(world, tmp_path, capsys):
    (tmp_path / "run" / "checkpoint-1").mkdir(parents=True)
    flags = {"resume_from_checkpoint": True, "resume_only_model": True}
    assert main(rlhf_command(world, tmp_path / "run", **flags)) == 2
    assert "holds another run" in capsys.readouterr().err


# The sampler


def spell(ids) -> str:
    return "".join(f"<{int(token)}>" for token in ids if int(token) not in STOPS)


def test_a_stop_word_ends_a_completion_with_the_token_that_completes_it():
    model, prompts = tiny_model(), random_prompts()
    sampling = Sampling(12, (63,), PAD, temperature=0, banned_token_ids=(IMAGE_TOKEN,))
    free = generate(model, prompts, 1, sampling)
    word = spell(free.ids[1, 4:6].tolist())  # what row 1 says with its fifth and sixth token
    stopped = generate(
        model,
        prompts,
        1,
        Sampling(12, (63,), PAD, 0, banned_token_ids=(IMAGE_TOKEN,), stop_words=StopWords((word,), spell)),
    )
    texts = [spell(ids) for ids in free.token_lists()]
    for row, ids in enumerate(stopped.token_lists()):
        expected = texts[row].partition(word)[0] + (word if word in texts[row] else "")
        assert spell(ids) == expected
        assert bool(stopped.finished[row]) == (word in texts[row])
    assert len(stopped.token_lists()[1]) <= 6


def test_the_end_of_a_stop_word_is_found_by_trying_every_length():
    words = StopWords(("<3><4>", "<9>"), spell)
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        ids = torch.randint(2, 10, (12,), generator=generator).tolist()
        slow = next((n for n in range(13) if any(word in spell(ids[:n]) for word in words.words)), None)
        assert words.end(ids) == slow


def test_the_repetition_penalty_is_that_of_its_definition_and_spares_padding():
    generator = torch.Generator().manual_seed(0)
    ids = torch.tensor([[PAD, PAD, 7, 8, 7], [9, 3, 4, 5, 3]])
    scores = torch.randn(2, 12, generator=generator)
    penalized = RepetitionPenalty(1.3, PAD)(ids, scores)
    for row, occurred in enumerate(({7, 8}, {9, 3, 4, 5})):
        for token in range(12):
            value = float(scores[row, token])
            expected = (value / 1.3 if value > 0 else value * 1.3) if token in occurred else value
            assert float(penalized[row, token]) == pytest.approx(expected, rel=1e-6)

"""Runs that measure what tokens owe to the image: the numbers they write, and what a run without costs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from swift.engine.batch import collate_completions, collate_prompts
from swift.evaluation.controls import blank_images
from swift.llm.checkpoint.load import load_policy
from swift.llm.images.masks import noise_image
from swift.llm.images.source import open_image
from swift.llm.policy import prompt_embeddings
from swift.llm.resume import changes_of_run
from swift.trainers.rlhf_trainer.micro_batch import score_for_loss
from swift.trainers.rlhf_trainer.vision.masked_prompts import MaskedPrompts
from swift.utils.errors import UserError
from swift.utils.files import write_json
from tests.support.grpo_runs import make_trainer

FLAGS = {"vision_weights": True, "vision_top_share": 0.5, "max_steps": 1, "beta": 0.2}


def rows_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "completions.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def run(world, tmp_path_factory):
    trainer = make_trainer(world, tmp_path_factory.mktemp("vision"), **FLAGS)
    trainer.train()
    return trainer


@pytest.fixture(scope="module")
def rows(run):
    return rows_of(Path(run.args.output_dir))


def slow_dependency(model, encoded: list, ids: list[int], temperature: float) -> list[float]:
    """KL in float64 from one forward with the image and one without it, full distributions."""
    logps = []
    for prompt in encoded:
        batch, answer = collate_prompts([prompt], 0), collate_completions([ids], 0).ids
        logits = model(torch.cat([batch.input_ids, answer], dim=1), **batch.image_inputs()).logits[0]
        places = slice(batch.input_ids.shape[1] - 1, -1)
        logps.append((logits[places].detach().double() / temperature).log_softmax(dim=-1))
    seen, blind = logps
    return (seen.exp() * (seen - blind)).sum(dim=-1).tolist()


def test_dependencies_are_those_of_gray_images_from_scratch(run, rows, world):
    model = load_policy(world / "policy").model
    records = {record.columns["idx"]: record for record in run.train_dataset.records}
    for row in rows:
        record = records[row["idx"]]
        encoded = [run.template.encode_prompt(shown) for shown in (record, *blank_images([record]))]
        expected = slow_dependency(model, encoded, row["token_ids"], run.args.temperature)
        assert row["per_token_vision_dependency"][0] == pytest.approx(expected, rel=1e-3, abs=1e-5)
    assert max(max(row["per_token_vision_dependency"][0]) for row in rows) > 1e-3


def test_the_log_has_the_mean_and_the_share_without_a_policy_term(run, rows):
    values = [value for row in rows for value in row["per_token_vision_dependency"][0]]
    entry = run.state.log_history[0]
    assert entry["vision_dependency"] == pytest.approx(np.mean(values), rel=1e-5)
    left_out = sum(len(row["token_ids"]) // 2 for row in rows)
    assert entry["masked_tokens"] == pytest.approx(left_out / len(values), abs=1e-6)


def test_weights_rise_with_the_mean_dependency_and_have_the_mean_1(rows):
    weights = np.array([row["vision_weight"] for row in rows])
    means = [np.mean(row["per_token_vision_dependency"][0]) for row in rows]
    assert weights.mean() == pytest.approx(1.0, abs=1e-6)
    assert 0.9 - 1e-6 <= weights.min() < weights.max() <= 2.0 + 1e-6
    assert list(weights.argsort()) == list(np.argsort(means))


def blinded(trainer):
    """Every image has the same features."""
    for parameter in trainer.model.model.embed_tokens_extend.image_embed.img_projection_up.parameters():
        parameter.data.zero_()
    for parameter in trainer.model.model.embed_tokens_extend.image_embed.img_projection_down.parameters():
        parameter.data.zero_()
    return trainer


def test_a_model_that_ignores_its_image_owes_it_nothing(world, tmp_path):
    """All weights are then 1, and measuring changes no loss."""
    trainer = blinded(make_trainer(world, tmp_path, vision_weights=True, vision_mask="noise", max_steps=1))
    trainer.train()
    for row in rows_of(tmp_path):
        assert row["per_token_vision_dependency"] == [[0.0] * len(row["token_ids"])]
        assert row["vision_weight"] == 1.0
    assert trainer.state.log_history[0]["vision_dependency"] == 0.0


def test_logging_alone_changes_no_loss_and_makes_two_more_forward_passes(world, tmp_path):
    """With the image and without it. One more if the rollout is scored anyway."""
    calls, losses = {}, {}
    for name, flags in {
        "off": {},
        "on": {"log_vision_dependency": True},
        "reused": {"num_iterations": 2, "save_steps": 2},
        "reused on": {"num_iterations": 2, "save_steps": 2, "log_vision_dependency": True},
    }.items():
        trainer = make_trainer(world, tmp_path / name, max_steps=1, beta=0.0, **flags)
        calls[name] = 0

        def count(*_, name=name):
            calls[name] += 1

        trainer.model.register_forward_hook(count)
        trainer.train()
        losses[name] = trainer.state.log_history[0]["loss"]
        assert ("vision_dependency" in trainer.state.log_history[0]) == name.endswith("on")
        assert ("per_token_vision_dependency" in rows_of(tmp_path / name)[0]) == name.endswith("on")
        assert "vision_weight" not in rows_of(tmp_path / name)[0]
    assert calls["on"] - calls["off"] == 2
    assert calls["reused on"] - calls["reused"] == 1
    assert losses["on"] == losses["off"]


def test_without_the_flags_nothing_is_computed():
    """There is neither a model nor a scorer that could be called."""
    args = SimpleNamespace(
        steps_per_rollout=1, num_iterations=1, kl_in_reward=False, measures_vision=False, vision_mask="gray", seed=0
    )
    assert MaskedPrompts.of(args, None)(None, None, alike=True) is None
    assert score_for_loss(None, None, None, args, None, None).dependency is None


def test_prompts_without_images_have_no_dependency_and_the_weight_1(world, tmp_path, run):
    """One of two prompts loses its image."""
    trainer = make_trainer(world, tmp_path, vision_weights=True, unseen="count", max_steps=1)
    dataset = trainer.train_dataset
    dataset.records = [
        record if place % 2 else replace(record, images=()) for place, record in enumerate(dataset.records)
    ]
    trainer.args.max_steps = 3
    trainer.train()
    rows = rows_of(tmp_path)
    blind = [row for row in rows if row["idx"] % 2 == 0]
    assert 0 < len(blind) < len(rows)
    assert all(row["per_token_vision_dependency"] is None and row["vision_weight"] == 1.0 for row in blind)
    assert all(row["per_token_vision_dependency"] for row in rows if row["idx"] % 2)


def test_features_of_a_mask_are_computed_once_per_size_and_are_those_in_place(run):
    """Prompts of equal images share a mask. Cached features give the embeddings of a whole batch."""
    items = run.train_dataset.items(range(6))
    prompts = collate_prompts([item.prompt for item in items], 0)
    own = run.masked_prompts(run.model, SimpleNamespace(items=items, prompts=prompts), alike=True)
    expected = prompt_embeddings(run.model, own.input_ids, own.image_inputs())
    seen = prompt_embeddings(run.model, prompts.input_ids, prompts.image_inputs())
    masks = MaskedPrompts(run.template, "gray", 0)
    rollout = SimpleNamespace(items=items, prompts=prompts.with_embeds(seen))
    for _ in range(2):
        masked = masks(run.model, rollout, alike=False)
        assert torch.allclose(masked.embeds, expected, atol=1e-5)
    assert not torch.allclose(seen, expected, atol=1e-3)
    sizes = {open_image(item.record.images[0]).size for item in items}
    assert len(masks._features) == len(sizes)


def test_noise_is_a_function_of_size_and_seed():
    first, again = (np.asarray(open_image(noise_image.__wrapped__(40, 30, 7))) for _ in range(2))
    assert first.shape == (30, 40, 3)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, np.asarray(open_image(noise_image(40, 30, 8))))
    assert first.std() > 60  # 73.9 for even values in 0..255


@pytest.mark.parametrize(
    ("flag", "value"), [("vision_weights", True), ("vision_top_share", 0.4), ("vision_mask", "noise")]
)
def test_a_run_is_not_resumed_with_other_weights(tmp_path, flag, value):
    before = {"vision_weights": False, "vision_top_share": 1.0, "vision_mask": "gray", "log_vision_dependency": False}
    write_json(tmp_path / "args.json", {"arguments": before})
    with pytest.raises(UserError, match=f"--{flag} was {before[flag]!r} and is now {value!r}"):
        changes_of_run(tmp_path, before | {flag: value}, {}, {}, allowed=False)
    assert changes_of_run(tmp_path, before | {"log_vision_dependency": True}, {}, {}, allowed=False) == []

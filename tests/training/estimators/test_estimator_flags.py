"""Flags of the GRPO family: what follows from others, combinations without a meaning, and documented recipes."""

from __future__ import annotations

import re
import shlex
from dataclasses import fields

import pytest

from swift.llm.arguments import parse_rlhf_args
from swift.llm.estimator_flags import EstimatorFlags
from swift.utils.errors import UserError
from tests.support.builders import ROOT

PAGE = (ROOT / "docs" / "algorithms.md").read_text(encoding="utf-8")
RECIPES = dict(re.findall(r"^\| ([^|`]+?) \| `(--[^`]+)` \|", PAGE.partition("## Recipes")[2], re.MULTILINE))


@pytest.fixture
def base(tmp_path) -> str:
    return f"--model m --dataset d.json --reward_funcs a b --output_dir {tmp_path}/run"


def parse(text: str):
    return parse_rlhf_args(shlex.split(text))[2]


def test_the_defaults_are_what_runs_did_before_there_was_a_choice(base):
    args = parse(base)
    assert (args.loss_type, args.importance_sampling_level, args.advantage_estimator) == ("dapo", "token", "grpo")
    assert (args.scale_rewards, args.kl_in_reward, args.top_entropy_quantile) == ("group", False, 1.0)
    assert (args.flat_groups, args.sync_ref_model, args.steps_per_rollout) == ("keep", False, 1)
    assert (args.vision_weights, args.measures_vision) == (False, False)
    assert args.num_generations_eval is args.reward_timeout is args.delta is None


@pytest.mark.parametrize(
    ("flags", "scale", "kl_in_reward"),
    [
        ("--advantage_estimator rloo", "none", True),
        ("--advantage_estimator rloo --beta 0", "none", False),
        ("--advantage_estimator rloo --kl_in_reward false --scale_rewards batch", "batch", False),
        ("--advantage_estimator reinforce_plus_plus", "batch", True),
        ("--scale_rewards gdpo", "gdpo", False),
        ("--kl_in_reward", "group", True),
    ],
)
def test_an_estimator_brings_its_scale_and_the_place_of_the_kl(base, flags, scale, kl_in_reward):
    args = parse(f"{base} {flags}")
    assert (args.scale_rewards, args.kl_in_reward) == (scale, kl_in_reward)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--loss_type cispo", "--loss_type cispo weighs each token with its ratio up to --epsilon_high None"),
        ("--loss_type cispo --epsilon_high 0.2", "up to --epsilon_high 0.2, which must be 1 or more"),
        ("--loss_type sapo --epsilon_high 0.3", "--epsilon_high does not go with --loss_type sapo"),
        ("--loss_type sapo --delta 4", "--delta bounds the clipped loss, which --loss_type sapo does not have"),
        ("--loss_type cispo --epsilon_high 5 --delta 4", "which --loss_type cispo does not have"),
        ("--delta 1.2", "--delta 1.2 must be above 1 + epsilon_high = 1.2"),
        ("--epsilon_high 0.5 --delta 1.4", "must be above 1 + epsilon_high = 1.5"),
        ("--scale_rewards gdpo --advantage_estimator rloo", "gdpo does not go with --advantage_estimator rloo"),
        ("--flat_groups dpo --kl_in_reward true", "--flat_groups dpo does not go with --kl_in_reward"),
        ("--scale_rewards gdpo --kl_in_reward true", "--kl_in_reward does not go with --scale_rewards gdpo"),
        ("--kl_in_reward true --beta 0", "--kl_in_reward needs a reference policy, and with --beta 0 there is none"),
        ("--sync_ref_model --beta 0", "--sync_ref_model needs a reference policy"),
        ("--flat_groups dpo --beta 0", "--flat_groups dpo needs a reference policy"),
        ("--top_entropy_quantile 0", "--top_entropy_quantile 0.0 must be above 0 and at most 1"),
        ("--vision_top_share 0", "--vision_top_share 0.0 must be above 0 and at most 1"),
        ("--vision_mask noise", "--vision_mask noise does nothing by itself; pass --vision_weights true"),
        ("--ref_model_mixup_alpha 2", "--ref_model_mixup_alpha 2.0 must be above 0 and at most 1"),
        ("--ref_model_sync_steps 0", "--ref_model_sync_steps 0 must be 1 or more"),
        ("--num_generations_eval 0", "--num_generations_eval 0 must be 1 or more"),
        ("--reward_timeout 0", "--reward_timeout 0.0 must be above 0"),
        ("--steps_per_generation 3 --gradient_accumulation_steps 2", "--steps_per_generation 3 must be a multiple of"),
        ("--steps_per_generation 0", "--steps_per_generation 0 must be a multiple of"),
        (
            "--steps_per_generation 3",
            "--save_steps 1000 must be a multiple of --num_iterations 1 times the 3 opt",
        ),
        ("--loss_type ppo", "--loss_type"),
        ("--advantage_estimator gae", "--advantage_estimator"),
    ],
)
def test_a_combination_without_a_meaning_is_refused_with_the_reason(base, flags, words):
    with pytest.raises(UserError) as caught:
        parse(f"{base} {flags}")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_steps_per_generation_follows_a_batch_that_is_adapted(base):
    """The 16 completions of a step become one group per micro-batch, so two micro-batches in place of four."""
    flags = "--per_device_train_batch_size 4 --gradient_accumulation_steps 4 --steps_per_generation 8"
    args = parse(f"{base} {flags}")
    assert (args.gradient_accumulation_steps, args.steps_per_generation, args.steps_per_rollout) == (2, 4, 2)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_parses(base, name):
    args = parse(f"{base} {RECIPES[name]}")
    given = re.findall(r"--(\w+) (\S+)", RECIPES[name])
    assert given
    assert {flag: str(getattr(args, flag)).lower() for flag, _ in given} == {
        flag: str(type(getattr(args, flag))(value) if isinstance(getattr(args, flag), float) else value).lower()
        for flag, value in given
    }


def test_the_document_has_the_recipes_and_every_flag():
    assert {"GRPO", "DAPO", "Dr. GRPO", "GSPO", "CISPO", "GDPO"} <= RECIPES.keys()
    assert [field.name for field in fields(EstimatorFlags) if f"`--{field.name}" not in PAGE] == []

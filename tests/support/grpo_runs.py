"""GRPO trainers for tests, built in this process."""

from __future__ import annotations

from pathlib import Path

from swift.cli.common import read_policy
from swift.cli.data import read_data
from swift.llm.arguments import parse_rlhf_args
from swift.plugin.loader import load_external_plugins
from swift.plugin.rewards import build_rewards
from swift.trainers.rlhf_trainer.grpo_trainer import GRPOTrainer
from tests.support.builders import rlhf_command
from utils.freezing import freeze_non_vision


def make_trainer(world: Path, output: Path, **flags: object) -> GRPOTrainer:
    """Trainer of the run of `builders.rlhf_command`. The vision LoRA and the head train, as under the freezing hook."""
    model, data, training = parse_rlhf_args(rlhf_command(world, output, **flags))
    load_external_plugins(training.external_plugins)
    read = read_data(data, training.seed, require_solution=True)
    policy, template = read_policy(model, data)
    freeze_non_vision(policy.model)
    return GRPOTrainer(
        args=training,
        train_dataset=read.train,
        eval_dataset=read.validation,
        policy=policy,
        template=template,
        reward_funcs=build_rewards(training.reward_funcs, training),
    )

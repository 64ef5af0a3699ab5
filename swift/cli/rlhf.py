"""Train a policy by GRPO.

    python -m swift.cli.rlhf --model DIR --dataset FILE --external_plugins plugin.py \
        --reward_funcs external_r1v_acc external_kg_jac --output_dir output/run
    torchrun --nproc_per_node N -m swift.cli.rlhf ...        on N processes

The flags are those of `transformers.TrainingArguments` and further ones with ms-swift's names; --help lists the latter.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial

from swift.cli.common import read_policy, read_reference, run_training
from swift.cli.data import read_data
from swift.llm.arguments import parse_rlhf_args
from swift.llm.dataset import Record, raise_problems
from swift.plugin.loader import load_external_plugins
from swift.plugin.rewards import build_rewards, required_columns
from swift.trainers.rlhf_trainer import grpo_trainer
from swift.trainers.rlhf_trainer.rollout import PROVIDED_COLUMNS
from swift.utils.errors import UserError, reports_user_errors
from swift.utils.logger import get_logger
from utils.get_knowledge_graph import extractor_name

logger = get_logger()


@reports_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Read flags, plugins, data and policy, then train. The order is such that mistakes show as early as possible."""
    model, data, training = parse_rlhf_args(argv)
    load_external_plugins(training.external_plugins)
    rewards = build_rewards(training.reward_funcs, training)
    columns = required_columns(rewards)
    read = read_data(data, training.seed, require_solution="solution" in columns)
    read = read.checked(partial(check_columns, columns=columns))
    warn_of_missing_reasoning(read.train, rewards)
    policy, template = read_policy(model, data, training.max_completion_length)
    read = read.checked(template.check_prompts)
    reference = read_reference(model)
    try:
        # Looked up in its module: a plugin may have replaced the class by a wrapper after this file was imported.
        trainer = grpo_trainer.GRPOTrainer(
            model=policy.model,
            ref_model=reference,
            args=training,
            train_dataset=read.train,
            eval_dataset=read.validation,
            policy=policy,
            template=template,
            reward_funcs=rewards,
        )
    except ValueError as error:  # a plugin written for ms-swift cannot import UserError
        raise UserError(str(error)) from error
    return run_training(trainer, (model, data, training), extractor=extractor_name(), **read.facts)


def check_columns(records: Sequence[Record], columns: dict[str, str]) -> None:
    """Check that every record has the columns that the rewards read.

    Raises:
        UserError: a column is missing; the message names the first record and the number of further ones.
    """
    raise_problems(
        f"{record.source}: field {column!r}: missing, and reward {reward} reads it; add it or leave the reward out"
        for record in records
        for column, reward in columns.items()
        if column not in PROVIDED_COLUMNS and record.columns.get(column) is None
    )


def warn_of_missing_reasoning(records: Sequence[Record], rewards: Sequence[tuple[str, Callable]]) -> None:
    """Warn of each reward that compares reasoning, if records have only an ``answer`` to compare with."""
    bare = [record for record in records if not record.has_reasoning]
    for name, reward in rewards:
        if bare and getattr(reward, "reads_reasoning", False):
            logger.warning(
                "reward %s compares reasoning, and %d of %d records have none, only an answer (the first: %s); add "
                "'explanation' or a 'solution' with <think>, or leave the reward out",
                name, len(bare), len(records), bare[0].source,
            )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())

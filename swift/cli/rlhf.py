"""Train a policy by GRPO.

    python -m swift.cli.rlhf --model DIR --dataset FILE --external_plugins plugin.py \
        --reward_funcs external_r1v_acc external_kg_jac --output_dir output/run
    torchrun --nproc_per_node N -m swift.cli.rlhf ...        on N processes

The flags are those of `transformers.TrainingArguments` and further ones with ms-swift's names; --help lists the latter.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from swift.cli.common import read_policy, read_reference, run_training
from swift.cli.data import read_data
from swift.llm.arguments import DataArguments, ModelArguments, RLHFArguments, parse_rlhf_args
from swift.llm.dataset import Record, raise_problems
from swift.plugin.loader import load_external_plugins
from swift.plugin.rewards import build_rewards, required_columns, reward_notes
from swift.trainers.rlhf_trainer import grpo_trainer
from swift.trainers.rlhf_trainer.grpo_trainer import GRPOTrainer
from swift.trainers.rlhf_trainer.rollout import PROVIDED_COLUMNS
from swift.utils.endings.leaving import run_to_its_end
from swift.utils.errors import UserError, reports_user_errors
from swift.utils.logger import get_logger
from utils.get_knowledge_graph import extractor_name

logger = get_logger()


@reports_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Read flags, plugins, data and policy, then train. The order is such that mistakes show as early as possible."""
    arguments = parse_rlhf_args(argv)
    return run_training(build_trainer(*arguments), arguments, extractor=extractor_name())


def build_trainer(
    model: ModelArguments, data: DataArguments, training: RLHFArguments, kind: type | None = None, **more: object
) -> GRPOTrainer:
    """Load plugins, data and policy, and build their trainer.

    ``kind`` takes the place of GRPOTrainer and gets the arguments ``more``. Raises UserError for anything that cannot
    be used.
    """
    load_external_plugins(training.external_plugins)
    rewards = build_rewards(training.reward_funcs, training)
    columns = required_columns(rewards)
    needs_solution = "solution" in columns or training.flat_groups == "dpo"
    read = read_data(data, training.seed, require_solution=needs_solution)
    read = read.checked(partial(check_columns, columns=columns))
    for note in reward_notes(rewards, [record.columns for record in read.train]):
        logger.warning("%s", note)
    policy, template = read_policy(model, data, training.max_completion_length)
    read = read.fitted(template, data, learns_solutions=training.flat_groups == "dpo")
    reference = read_reference(model)
    # Looked up in its module: a plugin may have replaced the class by a wrapper after this file was imported.
    kind = kind or grpo_trainer.GRPOTrainer
    try:
        trainer = kind(
            model=policy.model,
            ref_model=reference,
            args=training,
            train_dataset=read.train,
            eval_dataset=read.validation,
            policy=policy,
            template=template,
            reward_funcs=rewards,
            **more,
        )
    except ValueError as error:  # a plugin written for ms-swift cannot import UserError
        raise UserError(str(error)) from error
    trainer.facts = read.facts
    return trainer


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


if __name__ == "__main__":
    run_to_its_end(main)

"""Fine-tune a policy on the solutions of a dataset.

python -m swift.cli.sft --model DIR --dataset FILE --output_dir output/sft --train_type full
torchrun --nproc_per_node N -m swift.cli.sft ...         on N processes
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from swift.cli.common import read_policy, run_training
from swift.cli.data import read_data
from swift.llm.arguments import parse_sft_args
from swift.trainers.sft_trainer import SFTTrainer
from swift.utils.errors import reports_user_errors


@reports_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Read flags, data and policy, then train."""
    model, data, training = parse_sft_args(argv)
    read = read_data(data, training.seed, require_solution=True)
    policy, template = read_policy(model, data)
    read = read.fitted(template, data, learns_solutions=True)
    trainer = SFTTrainer(
        args=training, train_dataset=read.train, eval_dataset=read.validation, policy=policy, template=template
    )
    trainer.facts = read.facts
    return run_training(trainer, (model, data, training))


if __name__ == "__main__":
    sys.exit(main())

"""Fine-tuning runs for tests: their flags, and their trainers built in this process."""

from __future__ import annotations

from pathlib import Path

from swift.cli.common import read_policy
from swift.cli.data import read_data
from swift.llm.arguments import parse_sft_args
from swift.trainers.sft_trainer import SFTTrainer

RECORDS = 12  # the number that builders.write_world writes


def sft_command(world: Path, output: Path, **flags: object) -> list[str]:
    """Command line of a small run that trains all weights on all records at once.

    ``flags`` are added, or replace flags of the same name.
    """
    values = {
        "model": world / "policy",
        "dataset": world / "data" / "train.json",
        "output_dir": output,
        "train_type": "full",
        "per_device_train_batch_size": RECORDS,
        "learning_rate": 1e-2,
        "warmup_ratio": 0,
        "max_steps": 2,
        "use_cpu": True,
        **flags,
    }
    return [word for name, value in values.items() for word in (f"--{name}", str(value))]


def make_trainer(world: Path, output: Path, **flags: object) -> SFTTrainer:
    """Trainer of the run of `sft_command`."""
    model, data, training = parse_sft_args(sft_command(world, output, **flags))
    read = read_data(data, training.seed, require_solution=True)
    policy, template = read_policy(model, data)
    return SFTTrainer(
        args=training, train_dataset=read.train, eval_dataset=read.validation, policy=policy, template=template
    )

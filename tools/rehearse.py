"""Rehearse a GRPO run at real size, before any credentialed file is there.

    python -m tools.rehearse --layers 2                                  seconds on a CPU, a test of the installation
    python -m tools.rehearse --per_device_train_batch_size 16 --num_generations 8 --max_completion_length 256
    torchrun --nproc_per_node 4 -m tools.rehearse --layout native --deepspeed zero2

It writes random weights of the published sizes and questions about random films, trains one step with the flags given,
and prints seconds and peak memory by part. Flags that are not listed here go to swift.cli.rlhf. A random policy never
ends an answer, so every completion has --max_completion_length tokens, the worst case of a real run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from swift.cli.common import run_training
from swift.cli.rlhf import build_trainer
from swift.llm.arguments import RLHFArguments, parse_rlhf_args
from swift.plugin.loader import OWN_PLUGIN
from swift.utils.errors import UserError, reports_user_errors
from swift.utils.files import write_json
from swift.utils.flag_limits import CommandParser
from swift.utils.run_info import package_versions, plain
from tools.rehearsal.checkpoint import make_random_checkpoint
from tools.rehearsal.gauges import Measure, PartGauge, table
from tools.rehearsal.questions import write_questions
from tools.rehearsal.sizes import rehearsal_config
from tools.rehearsal.trainer import RehearsalTrainer
from utils.get_knowledge_graph import extractor_name

RESULT = "rehearsal.json"  # in the folder of the run


def parse_arguments(argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """The command's own flags, and those for swift.cli.rlhf."""
    parser = CommandParser(
        prog="python -m tools.rehearse",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s [own flags] [flags of swift.cli.rlhf]",
    )
    add = parser.add_argument
    add("--folder", type=Path, default=Path("output/rehearsal"), help="where to write (default: output/rehearsal)")
    add("--layout", choices=("remote", "native"), default="remote", help="Microsoft's layout or transformers' own")
    add("--layers", type=int, help="layers of the decoder (default: 32, as published)")
    add("--config", type=Path, help="a config.json, or some settings of one, in place of the published sizes")
    add("--film", type=int, nargs=2, default=(2544, 3056), metavar=("WIDTH", "HEIGHT"), help="size of a film, pixels")
    add("--images", type=int, default=1, help="films of a question (default: 1)")
    add("--model", help="a checkpoint to use in place of random weights")
    add("--dataset", nargs="+", help="training files to use in place of random questions")
    own, flags = parser.parse_known_args(argv)
    if min(*own.film, own.images, own.layers or 1) < 1:
        raise UserError("--film, --images and --layers must be 1 or more; raise them")
    return own, flags


def training_flags(own: argparse.Namespace, flags: Sequence[str]) -> list[str]:
    """The flags of the run: one step as train.sh would train it, then the flags given, which replace these."""
    trains = [] if {"--trainable", "--train_type"} & set(flags) else ["--trainable", "vision-lora+head"]
    return [
        "--model", own.model or str(own.folder / "policy"),
        "--dataset", *(own.dataset or [str(own.folder / "data" / "train.json")]),
        "--output_dir", str(own.folder / "run"), "--overwrite_output_dir", "true", "--max_steps", "1",
        "--external_plugins", str(OWN_PLUGIN), "--reward_funcs", "external_r1v_acc", "external_kg_jac",
        *trains, *flags,
    ]  # fmt: skip


def write_inputs(own: argparse.Namespace, training: RLHFArguments) -> None:
    """Write the checkpoint and enough questions for every step, unless files are named in their place."""
    if own.model is None:
        make_random_checkpoint(own.folder / "policy", own.layout, rehearsal_config(own.layers, own.config))
    if own.dataset is None:
        completions = training.per_device_train_batch_size * training.gradient_accumulation_steps * training.world_size
        count = completions // training.num_generations * max(1, training.max_steps)
        write_questions(own.folder / "data", count, tuple(own.film), own.images)


def report(trainer: RehearsalTrainer, parts: dict[str, Measure], flags: Sequence[str]) -> None:
    """Print the parts beside the memory plan, and write both into the folder of the run."""
    args, plan = trainer.args, trainer.announced
    facts = {"parts": plain(parts), "plan": plain(plan), "flags": list(flags), "versions": package_versions()}
    write_json(Path(args.output_dir) / RESULT, facts)
    print(f"{args.world_size} x {args.device.type}, the slowest and the largest process of each part")
    print("\n".join(table(parts)))
    print(f"memory plan: {plan.certain / 1e9:.2f} GB at the least, {plan.peak / 1e9:.2f} GB at the peak")
    if trainer.state.global_step == 1:
        print("From the second step on the optimizer's state is there throughout: --max_steps 2 measures it.")


@reports_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. If the run fails, what it measured until then is printed."""
    own, flags = parse_arguments(argv)
    arguments = parse_rlhf_args(training_flags(own, flags))
    training = arguments[-1]
    gauge = PartGauge()
    try:
        with gauge.timed("writing"), training.main_process_first(local=False, desc="writing the checkpoint"):
            if training.process_index == 0:
                write_inputs(own, training)
        with gauge.timed("loading"):
            trainer = build_trainer(*arguments, kind=RehearsalTrainer, gauge=gauge)
        status = run_training(trainer, arguments, extractor=extractor_name())
    except UserError:
        gauge.finish()
        print("\n".join(table(gauge.parts)))
        raise
    parts = trainer.measures()
    if training.process_index == 0:
        report(trainer, parts, flags)
    return status


if __name__ == "__main__":
    sys.exit(main())

"""Steps that the training commands share: load the policy, and carry out the run."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import torch
from torch import nn
from transformers.trainer_utils import SaveStrategy

from swift.cli.data import note_unreadable, skip_unreadable
from swift.llm.arguments import DataArguments, ModelArguments, RunArguments
from swift.llm.checkpoint.folders import resolve_checkpoint, weight_digests
from swift.llm.checkpoint.load import load_policy
from swift.llm.policy import Policy
from swift.llm.records.files import part_digest
from swift.llm.resume import ASIDE, THREADS, changes_of_run
from swift.llm.template.choose import template_for
from swift.llm.template.phi4 import IMAGE_SEPARATOR
from swift.llm.template.protocol import Template
from swift.llm.trainable import choose_trainable
from swift.trainers.callbacks import WatchFolder
from swift.trainers.curves import draw_curves
from swift.trainers.policy_trainer import PolicyTrainer
from swift.utils.digests import file_digest, value_digest
from swift.utils.endings.faults import naming_disk
from swift.utils.endings.launched import describe_loss
from swift.utils.errors import INTERRUPTED, LostProcess
from swift.utils.locks import only_one
from swift.utils.logger import get_logger
from swift.utils.output_folders import check_output_folder, free_space, gigabytes
from swift.utils.run_folder import BEST
from swift.utils.run_info import git_state, plain, write_run_info
from utils.switches import ROUNDING, SWITCHES, switches_set

logger = get_logger()

RESUME_ADVICE = "CHEX_RESUME_ADVICE"  # variable in which a script says how its runs are resumed
LOCK = ".lock"  # in the run folder
RESUME_FACTS = ("environment", "extractor", "prompts_per_step", "steps_per_rollout", THREADS)  # when a run is resumed


def read_policy(model: ModelArguments, data: DataArguments, new_tokens: int = 0) -> tuple[Policy, Template]:
    """Load the policy, choose its trainable parameters, and build its template.

    ``new_tokens`` is the largest number of tokens to be generated after a prompt. The folder of the reference is
    checked first, since loading the policy takes long.
    """
    if model.ref_model is not None:
        resolve_checkpoint(model.ref_model)
    policy = _load(model.model, model, data.dynamic_hd)
    choose_trainable(policy.model, model)
    return policy, template_for(policy, data.max_length, new_tokens, response_prefix=data.response_prefix)


def read_reference(model: ModelArguments) -> nn.Module | None:
    """Load the model of ``--ref_model``; None if the policy's own starting point is the reference."""
    if model.ref_model is None or Path(model.ref_model).resolve() == Path(model.model).resolve():
        return None
    return _load(model.ref_model, model).model


def _load(path: str, model: ModelArguments, dynamic_hd: int | None = None) -> Policy:
    dtype = model.torch_dtype if model.torch_dtype == "auto" else getattr(torch, model.torch_dtype)
    return load_policy(path, base=model.base_model, dtype=dtype, attn_impl=model.attn_impl, dynamic_hd=dynamic_hd)


def run_training(trainer: PolicyTrainer, arguments: Sequence[object], **facts: object) -> int:
    """Write args.json, train, and draw curves.png. Returns the exit status.

    ``arguments`` are the dataclasses of the command's flags; ``facts`` are further entries of args.json.
    """
    args: RunArguments = trainer.args
    busy = f"--output_dir {args.output_dir} is in use by a run that has not ended; wait for it, or name another folder"
    if not trainer.is_world_process_zero():
        return _train(trainer, arguments, trainer.facts | facts)
    with (
        naming_disk(args.output_dir),
        only_one(Path(args.output_dir) / LOCK, busy),
        closing(WatchFolder(args.output_dir)) as watch,
    ):
        trainer.callback_handler.callbacks.insert(0, watch)  # before those that write
        return _train(trainer, arguments, trainer.facts | facts, watch)


def _train(
    trainer: PolicyTrainer, arguments: Sequence[object], facts: dict[str, object], watch: WatchFolder | None = None
) -> int:
    """The part of :func:`run_training` for which the run folder is locked."""
    args: RunArguments = trainer.args
    if trainer.is_world_process_zero():
        if args.overwrite_output_dir and args.resume_from_checkpoint is None:
            clear_run(Path(args.output_dir))
        check_room(trainer)
        facts |= {
            "seed": args.seed,
            "world_size": args.world_size,
            "image_separator": IMAGE_SEPARATOR,
            "environment": switches_set(os.environ, SWITCHES + ROUNDING),
            "prompts_per_step": trainer.prompts_per_step,
            "steps_per_rollout": trainer.steps_at_once,
            THREADS: torch.get_num_threads() if args.device.type == "cpu" else None,
        }
        settings, contents = _settings(arguments), contents_of_files(arguments)
        if skipped := facts.get("skipped", {}).get("records"):
            contents["dataset"].append(value_digest(skipped))  # a run without the same records is another run
        if args.resume_from_checkpoint is not None:
            stated = {name: plain(value) for name, value in settings.items()}
            compared = {name: plain(facts.get(name)) for name in RESUME_FACTS}
            allowed, folder = args.resume_changed, Path(args.output_dir)
            facts["changes"] = changes_of_run(folder, stated, contents, compared, allowed=allowed)
        write_run_info(args.output_dir, settings, contents=contents, **facts)
    trainer.card = _card(arguments)
    skip_unreadable(trainer, _settings(arguments)["on_error"])
    try:
        trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    except RuntimeError as error:
        if (line := describe_loss(error)) is None:
            raise
        step = trainer.state.global_step + 1
        raise LostProcess(f"step {step}: {line}, then go on with --resume_from_checkpoint true") from error
    if watch is not None:
        watch.check()
        note_unreadable(trainer)
        draw_curves(trainer.state.log_history, Path(args.output_dir) / "curves.png")
    trainer.accelerator.wait_for_everyone()  # after a stop, a launcher ends all processes as soon as one is done
    if not trainer.stop.stopped:
        logger.info("finished: %s", args.output_dir)
        return 0
    if trainer.is_world_process_zero():
        step, command = trainer.state.global_step, f"--resume_from_checkpoint true --output_dir {args.output_dir}"
        hint = os.environ.get(RESUME_ADVICE) or command
        logger.warning("stopped at step %d; resume with %s", step, hint)
    return INTERRUPTED


def check_room(trainer: PolicyTrainer) -> None:
    """Check that the disk of the run has room for a checkpoint, and warn if it may not have room for as many as the run
    keeps at a time. Raises UserError."""
    args: RunArguments = trainer.args
    if args.save_strategy == SaveStrategy.NO:
        return
    every = [p for p in trainer.model.parameters() if args.save_full or p.requires_grad]
    weights = sum(p.numel() * p.element_size() for p in every)
    check_output_folder(args.output_dir, needed=weights)
    state = (
        0 if args.save_only_model else sum(8 * p.numel() for p in every if p.requires_grad)
    )  # two moments in float32
    count = 1 + (args.save_total_limit or 0)  # the new one is written before the oldest goes
    wanted, free = count * (weights + state), free_space(args.output_dir)
    if free < wanted:
        logger.warning(
            "%s are free for --output_dir %s, and %d checkpoints may take %s; free some space, or lower "
            "--save_total_limit",
            *(gigabytes(free), args.output_dir, count, gigabytes(wanted)),
        )


def contents_of_files(arguments: Sequence[object]) -> dict[str, list[str]]:
    """Digests of the files and model folders that flags name, by flag. A flag without a value is left out."""
    settings = _settings(arguments)
    contents = {}
    for name, digest in (("dataset", part_digest), ("val_dataset", part_digest), ("external_plugins", file_digest)):
        if settings.get(name):
            contents[name] = [digest(path) for path in settings[name]]
    for name in ("model", "ref_model", "base_model"):
        if settings.get(name):
            contents[name] = weight_digests(resolve_checkpoint(settings[name]), settings["base_model"])
    return contents


def _settings(arguments: Sequence[object]) -> dict[str, object]:
    """All fields of the dataclasses in ``arguments`` by name."""
    return {field.name: getattr(group, field.name) for group in arguments for field in dataclasses.fields(group)}


def _card(arguments: Sequence[object]) -> dict[str, object]:
    """Facts of the run for the README.md of its checkpoints."""
    settings = _settings(arguments)
    git = git_state()
    rewards = settings.get("reward_funcs")
    return {
        "base": settings["model"],
        "reference": settings["ref_model"],
        "data": settings["dataset"],
        "rewards": rewards and [f"{name} x {w:g}" for name, w in zip(rewards, settings["reward_weights"], strict=True)],
        "learning rate": settings["learning_rate"],
        "seed": settings["seed"],
        "commit": git and git["commit"] + (", with changes" if git["modified"] else ""),
    }


def clear_run(folder: Path) -> None:
    """Remove the files that an earlier run wrote into ``folder``, so that a later resume does not find them."""
    for name in ("args.json", "completions.jsonl", "curves.png", "training.html", BEST):
        (folder / name).unlink(missing_ok=True)
    for evidence in (*folder.glob("not_finite_step*.jsonl"), *folder.glob("completions.jsonl.damaged")):
        evidence.unlink()
    for checkpoint in (*folder.glob("checkpoint-*"), *folder.glob(f"{ASIDE}checkpoint-*")):
        shutil.rmtree(checkpoint)

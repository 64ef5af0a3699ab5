"""What the training commands share: data in, policy in, a finished run out."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from swift.llm.arguments import DataArguments, ModelArguments, RunArguments
from swift.llm.checkpoint.load import load_policy
from swift.llm.checkpoint.save import resolve_checkpoint
from swift.llm.dataset import Record, check_records, load_records
from swift.llm.policy import Policy
from swift.llm.template.choose import Template, template_for
from swift.llm.template.phi4 import IMAGE_SEPARATOR
from swift.llm.trainable import choose_trainable
from swift.trainers.curves import draw_curves
from swift.trainers.policy_trainer import PolicyTrainer
from swift.utils.errors import INTERRUPTED
from swift.utils.logger import get_logger
from swift.utils.run_info import git_state, write_run_info
from utils.questions import cluster_of

logger = get_logger()


def read_data(data: DataArguments, seed: int, *, require_solution: bool) -> tuple[list[Record], list[Record]]:
    """Training and validation records, every one of them checked."""
    train = load_records(data.dataset, data.image_root, require_solution=require_solution)
    validation = (
        load_records(data.val_dataset, data.image_root, require_solution=require_solution) if data.val_dataset else []
    )
    if data.split_dataset_ratio:
        train, validation = split_by_patient(train, data.split_dataset_ratio, seed)
    check_records([*train, *validation], decode=data.check_images)
    logger.info("%d training and %d validation records", len(train), len(validation))
    return train, validation


def split_by_patient(records: Sequence[Record], share: float, seed: int) -> tuple[list[Record], list[Record]]:
    """Hold out the records of about ``share`` of the patients. All records of a patient are on the same side, and a
    record that names no patient counts as a patient of its own."""
    patients = [cluster_of(record.columns, alone=record.source) for record in records]
    order = np.random.default_rng(seed).permutation(sorted(set(patients))).tolist()
    held_out = set(order[: max(1, round(share * len(order)))])
    sides: tuple[list[Record], list[Record]] = [], []
    for record, patient in zip(records, patients, strict=True):
        sides[patient in held_out].append(record)
    return sides


def read_policy(model: ModelArguments, data: DataArguments, new_tokens: int = 0) -> tuple[Policy, Template]:
    """The policy with its trainable parameters chosen, and its template; the reference's folder is looked for too.
    ``new_tokens`` is the most that will be generated after a prompt."""
    if model.ref_model is not None:
        resolve_checkpoint(model.ref_model)
    policy = _load(model.model, model, data.dynamic_hd)
    choose_trainable(policy.model, model)
    return policy, template_for(policy, data.max_length, new_tokens)


def read_reference(model: ModelArguments) -> nn.Module | None:
    """The model of ``--ref_model``; None where it is the policy's own starting point."""
    if model.ref_model is None or Path(model.ref_model).resolve() == Path(model.model).resolve():
        return None
    return _load(model.ref_model, model).model


def _load(path: str, model: ModelArguments, dynamic_hd: int | None = None) -> Policy:
    dtype = model.torch_dtype if model.torch_dtype == "auto" else getattr(torch, model.torch_dtype)
    return load_policy(path, base=model.base_model, dtype=dtype, attn_impl=model.attn_impl, dynamic_hd=dynamic_hd)


def run_training(trainer: PolicyTrainer, arguments: Sequence[object], **facts: object) -> int:
    """Train, with args.json before and curves.png after; the exit status."""
    args: RunArguments = trainer.args
    if trainer.is_world_process_zero():
        if args.overwrite_output_dir and args.resume_from_checkpoint is None:
            clear_run(Path(args.output_dir))
        fields = {f.name: getattr(group, f.name) for group in arguments for f in dataclasses.fields(group)}
        facts |= {
            "seed": args.seed,
            "world_size": args.world_size,
            "image_separator": IMAGE_SEPARATOR,
            "environment": _environment(),
        }
        write_run_info(args.output_dir, fields, **facts)
    trainer.card = _card(arguments)
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    if trainer.is_world_process_zero():
        draw_curves(trainer.state.log_history, Path(args.output_dir) / "curves.png")
    trainer.accelerator.wait_for_everyone()  # a launcher ends the others when one process is done after a stop
    if not trainer.stop.stopped:
        logger.info("finished: %s", args.output_dir)
        return 0
    if trainer.is_world_process_zero():
        step, hint = trainer.state.global_step, f"--resume_from_checkpoint true --output_dir {args.output_dir}"
        logger.warning("stopped at step %d; go on with %s", step, hint)
    return INTERRUPTED


def _card(arguments: Sequence[object]) -> dict[str, object]:
    """What a checkpoint's README.md tells of the run."""
    told = {f.name: getattr(group, f.name) for group in arguments for f in dataclasses.fields(group)}
    git = git_state()
    rewards = told.get("reward_funcs")
    return {
        "base": told["model"],
        "reference": told["ref_model"],
        "data": told["dataset"],
        "rewards": rewards and [f"{name} x {w:g}" for name, w in zip(rewards, told["reward_weights"], strict=True)],
        "learning rate": told["learning_rate"],
        "seed": told["seed"],
        "commit": git and git["commit"] + (", with changes" if git["modified"] else ""),
    }


def clear_run(folder: Path) -> None:
    """Remove what an earlier run left in ``folder``, and nothing else: a later resume must not find it."""
    for name in ("args.json", "completions.jsonl", "curves.png"):
        (folder / name).unlink(missing_ok=True)
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)


def _environment() -> dict[str, str]:
    """Variables that change what a run computes."""
    names = ("FREEZE_NON_VISION_PARAMS", "REXKG_EXTRACTOR", "KG_TEXT", "CHEX_RUN_CODE", "OMP_NUM_THREADS")
    return {name: os.environ[name] for name in names if name in os.environ}

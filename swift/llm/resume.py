"""Starting, resuming or refusing a run: the checkpoint to resume from, and output folders that hold another run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from swift.llm.checkpoint.checksums import CHECKSUMS, verify_checksums
from swift.llm.training_state import check_training_state
from swift.utils.decisive import WATCHING
from swift.utils.distributed import is_master
from swift.utils.errors import UserError
from swift.utils.files import try_read_json
from swift.utils.logger import get_logger
from swift.utils.run_folder import complete_checkpoints, finished_step
from utils.switches import ROUNDING

logger = get_logger()

# Flags that may differ when a run is resumed, beside those that only watch: an engine and the division of a step over
# processes and micro-batches change roundings only. The prompts of a step, and the steps of a rollout, are compared
# instead. The loss bnpo is averaged per micro-batch, so its size counts there.
RESUMED = {
    "per_device_train_batch_size", "gradient_accumulation_steps", "steps_per_generation",
    "resume_changed", "image_root", "allow_links", "on_error", "strict", "rollout_gather", "compile_rollout",
    "tokens_per_pass", "profile_steps",
    "deepspeed", "fsdp", "fsdp_config", "use_cpu", "ddp_backend", "ddp_bucket_cap_mb",
    "ddp_broadcast_buffers", "ddp_find_unused_parameters",
}  # fmt: skip


def resume_folder(output_dir: str, resume: str | None, overwrite: bool, only_model: bool = False) -> str | None:
    """The checkpoint folder to resume from; None to start from the beginning.

    ``resume`` is the value of ``--resume_from_checkpoint``: true, false or a folder. With ``only_model`` a run of its
    own begins with the checkpoint's weights. Raises UserError if ``output_dir`` holds another run that is neither
    resumed nor overwritten, and for a checkpoint that cannot be resumed.
    """
    folder = Path(output_dir)
    if only_model or resume in (None, "false", "False"):
        _refuse_occupied(folder, overwrite and not only_model)
    if resume in (None, "false", "False"):
        return None
    if resume in ("true", "True"):
        newest = _newest_intact(folder)
        if newest is None:
            logger.warning("%s holds no finished checkpoint: starting from the beginning", folder)
            return None
        checkpoint = newest
    elif finished_step(resume) is not None:
        checkpoint = Path(resume)
        verify_checksums(checkpoint, "name an older checkpoint")
        check_training_state(checkpoint)
    else:
        raise UserError(
            f"--resume_from_checkpoint {resume} has no complete trainer_state.json; name a checkpoint-N folder, or true"
        )
    if not (checkpoint / CHECKSUMS).exists():
        logger.warning("%s has no %s: its files are taken as they are", checkpoint, CHECKSUMS)
    if not only_model and not any(checkpoint.glob("rng_state*.pth")):
        raise UserError(
            f"--resume_from_checkpoint: {checkpoint} was saved by --save_only_model true, without optimizer and random "
            "state; start a new run with it as --model"
        )
    return str(checkpoint)


def changes_of_run(
    folder: Path, settings: Mapping[str, Any], contents: Mapping[str, Any], facts: Mapping[str, Any], *, allowed: bool
) -> list[str]:
    """Compare a run that is resumed with the args.json in ``folder``.

    Args:
        settings: the run's flags, as JSON holds them. Flags that decide nothing, and names of files, do not count.
        contents: digests of the files that flags name, by flag.
        facts: further entries of args.json that decide results. Variables that only round do not count.
        allowed: warn of changes and return them in words, instead of raising UserError for the first one.
    """
    written = try_read_json(folder / "args.json")
    if written is None:
        logger.warning("%s has no readable args.json: whether the resumed run is the same cannot be checked", folder)
        return []
    before, digests = written.get("arguments") or {}, written.get("contents") or {}
    free = RESUMED - ({"per_device_train_batch_size"} if settings.get("loss_type") == "bnpo" else set())
    names = [name for name in settings if name in before and name not in WATCHING | contents.keys() | free]
    changes = [
        f"--{name} was {before[name]!r} and is now {settings[name]!r}"
        for name in sorted(names)
        if before[name] != settings[name]
    ]
    changes += [
        f"the contents of --{name} {settings.get(name)} have changed"
        for name in sorted(contents)
        if name in digests and digests[name] != contents[name]
    ]
    for name in sorted(facts.keys() & written.keys()):
        was, now = (_without_rounding(value) for value in (written[name], facts[name]))
        if was != now:
            changes.append(f"{name} was {was!r} and is now {now!r}")
    if changes and not allowed:
        more = f" and {len(changes) - 1} more" if len(changes) > 1 else ""
        raise UserError(
            f"{folder} holds another run: {changes[0]}{more}; resume with the flags and files it was started with, "
            "or pass --resume_changed true to go through with the change, which is noted in args.json"
        )
    for change in changes:
        logger.warning("resumed although %s", change)
    return [*(written.get("changes") or []), *changes]


def _without_rounding(value: Any) -> Any:
    return {k: v for k, v in value.items() if k not in ROUNDING} if isinstance(value, dict) else value


def _newest_intact(folder: Path) -> Path | None:
    """The newest complete checkpoint whose files are as they were written. Damaged ones are warned of."""
    for checkpoint in complete_checkpoints(folder):
        try:
            verify_checksums(checkpoint, "the checkpoint before it is taken")
            check_training_state(checkpoint)
        except UserError as error:
            logger.warning("%s", error)
        else:
            return checkpoint
    return None


def _refuse_occupied(folder: Path, overwrite: bool) -> None:
    occupied = (folder / "args.json").exists() or any(folder.glob("checkpoint-*"))
    if occupied and not overwrite and is_master():
        raise UserError(
            f"--output_dir {folder} holds another run; pass --resume_from_checkpoint true to resume it, "
            "--overwrite_output_dir true to start anew, or another folder"
        )

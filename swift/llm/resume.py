"""Starting, resuming or refusing a run: the checkpoint to resume from, and output folders that hold another run."""

from __future__ import annotations

from pathlib import Path

from swift.utils.distributed import is_master
from swift.utils.errors import UserError
from swift.utils.logger import get_logger
from swift.utils.run_folder import finished_step, newest_checkpoint

logger = get_logger()


def resume_folder(output_dir: str, resume: str | None, overwrite: bool) -> str | None:
    """The checkpoint folder to resume from; None to start from the beginning.

    ``resume`` is the value of ``--resume_from_checkpoint``: true, false or a folder. Raises UserError if ``output_dir``
    holds another run that is neither resumed nor overwritten, and for a checkpoint that cannot be resumed.
    """
    folder = Path(output_dir)
    if resume in (None, "false", "False"):
        _refuse_occupied(folder, overwrite)
        return None
    if resume in ("true", "True"):
        newest = newest_checkpoint(folder)
        if newest is None:
            logger.warning("%s holds no finished checkpoint: starting from the beginning", folder)
            return None
        checkpoint = newest
    elif finished_step(resume) is not None:
        checkpoint = Path(resume)
    else:
        raise UserError(
            f"--resume_from_checkpoint {resume} has no complete trainer_state.json; name a checkpoint-N folder, or true"
        )
    if not any(checkpoint.glob("rng_state*.pth")):
        raise UserError(
            f"--resume_from_checkpoint: {checkpoint} was saved by --save_only_model true, without optimizer and random "
            "state; start a new run with it as --model"
        )
    return str(checkpoint)


def _refuse_occupied(folder: Path, overwrite: bool) -> None:
    occupied = (folder / "args.json").exists() or any(folder.glob("checkpoint-*"))
    if occupied and not overwrite and is_master():
        raise UserError(
            f"--output_dir {folder} holds another run; pass --resume_from_checkpoint true to resume it, "
            "--overwrite_output_dir true to start anew, or another folder"
        )

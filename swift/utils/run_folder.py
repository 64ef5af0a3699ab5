"""Progress of a run folder, read from the files that the Trainer wrote there. Does not import torch."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from swift.utils.files import read_json, try_read_json, write_json
from swift.utils.logger import get_logger

STATE_FILE = "trainer_state.json"
CHECKSUMS = "checksums.json"

logger = get_logger()

BEST = "best.json"
WRITING = ".writing"  # in a checkpoint that is not finished


def newest_checkpoint(run: str | Path) -> Path | None:
    """The ``checkpoint-N`` with the highest N that is complete; None if there is none."""
    return next(complete_checkpoints(run), None)


def complete_checkpoints(run: str | Path) -> Iterator[Path]:
    """The ``checkpoint-N`` folders that are complete, the highest N first. A warning names each incomplete one."""
    for path in numbered_checkpoints(run):
        if finished_step(path) is not None:
            yield path
        else:
            logger.warning("%s is incomplete and is skipped", path)


def numbered_checkpoints(run: str | Path) -> list[Path]:
    """All ``checkpoint-N`` folders, the highest N first. Clocks do not count, since they may be set back."""
    checkpoints = [path for path in Path(run).glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return sorted(checkpoints, key=step_in_name, reverse=True)


def step_in_name(checkpoint: Path) -> int:
    """The N of a ``checkpoint-N``."""
    return int(checkpoint.name.split("-")[1])


def begin_checkpoint(checkpoint: Path) -> None:
    """Make the folder of a checkpoint and mark it as unfinished, until the file ``WRITING`` is removed. What an earlier
    attempt has left there is removed."""
    if checkpoint.exists():
        shutil.rmtree(checkpoint)
    checkpoint.mkdir(parents=True)
    (checkpoint / WRITING).touch()


def is_unfinished(checkpoint: Path) -> bool:
    """True if a kill has left the checkpoint half-written. One that was finished and damaged later is not."""
    if (checkpoint / WRITING).exists():
        return True
    try:
        json.loads((checkpoint / STATE_FILE).read_bytes())
    except (OSError, ValueError, RecursionError):
        return not (checkpoint / CHECKSUMS).exists()
    return False


def write_best(run: str | Path, checkpoint: str | Path, value: float) -> None:
    """Write the name of a run's best checkpoint and its validation score to best.json."""
    write_json(Path(run) / BEST, {"checkpoint": Path(checkpoint).name, "value": value})


def best_checkpoint(run: str | Path) -> Path | None:
    """The checkpoint that best.json names; None if there is no best.json or the checkpoint is incomplete."""
    name = (try_read_json(Path(run) / BEST) or {}).get("checkpoint")
    checkpoint = Path(run) / Path(str(name)).name
    return checkpoint if name is not None and finished_step(checkpoint) is not None else None


def finished_step(checkpoint: str | Path) -> int | None:
    """The number of optimizer steps before a checkpoint; None if it is incomplete.

    A checkpoint is complete if its trainer_state.json can be read, which the Trainer writes after all other files, and
    if it is not marked as unfinished.
    """
    step = (try_read_json(Path(checkpoint) / STATE_FILE) or {}).get("global_step")
    whole = isinstance(step, int) and not isinstance(step, bool) and not (Path(checkpoint) / WRITING).exists()
    return step if whole else None


def trainer_state(checkpoint: str | Path) -> dict[str, Any]:
    """The checkpoint's trainer_state.json. Raises UserError if it is missing or incomplete."""
    return read_json(Path(checkpoint) / STATE_FILE, "remove the checkpoint, or copy it again")

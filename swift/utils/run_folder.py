"""How far a run folder has come, by what the Trainer wrote there. Imports no torch."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from swift.utils.logger import get_logger

logger = get_logger()


def newest_checkpoint(run: str | Path) -> Path | None:
    """The ``checkpoint-N`` with the highest N that was written to the end; None without one."""
    found = [path for path in Path(run).glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    for path in sorted(found, key=lambda path: int(path.name.split("-")[1]), reverse=True):
        if finished_step(path) is not None:
            return path
        logger.warning("%s was not written to the end: passing it over", path)
    return None


def finished_step(checkpoint: str | Path) -> int | None:
    """The optimizer steps behind a checkpoint; None where it was not written to the end, that is where its
    trainer_state.json, which is written last, is missing or cut."""
    try:
        return trainer_state(checkpoint)["global_step"]
    except (OSError, ValueError, KeyError):
        return None


def trainer_state(checkpoint: str | Path) -> dict[str, Any]:
    """The checkpoint's trainer_state.json. Raises OSError or ValueError where it is missing or cut."""
    return json.loads((Path(checkpoint) / "trainer_state.json").read_text(encoding="utf-8"))

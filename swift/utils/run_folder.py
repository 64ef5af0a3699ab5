"""How far a run folder has come, by what the Trainer wrote there. Imports no torch."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from swift.utils.files import write_json
from swift.utils.logger import get_logger

logger = get_logger()

BEST = "best.json"


def newest_checkpoint(run: str | Path) -> Path | None:
    """The ``checkpoint-N`` with the highest N that was written to the end; None without one."""
    return next(complete_checkpoints(run), None)


def complete_checkpoints(run: str | Path) -> Iterator[Path]:
    """The ``checkpoint-N`` folders that were written to the end, the highest N first. Others are warned of."""
    found = [path for path in Path(run).glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    for path in sorted(found, key=lambda path: int(path.name.split("-")[1]), reverse=True):
        if finished_step(path) is not None:
            yield path
            continue
        logger.warning("%s was not written to the end: passing it over", path)


def write_best(run: str | Path, checkpoint: str | Path, value: float) -> None:
    """Note in best.json which checkpoint of a run had the best validation figure, and that figure."""
    write_json(Path(run) / BEST, {"checkpoint": Path(checkpoint).name, "value": value})


def best_checkpoint(run: str | Path) -> Path | None:
    """The complete checkpoint that best.json names; None if the run did not look for one."""
    try:
        name = json.loads((Path(run) / BEST).read_text(encoding="utf-8"))["checkpoint"]
        checkpoint = Path(run) / Path(name).name
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return checkpoint if finished_step(checkpoint) is not None else None


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

"""completions.jsonl: every sampled completion, with its tokens, log-probabilities and rewards."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object
from torch import Tensor
from transformers import TrainerCallback

from swift.trainers.rlhf_trainer.micro_batch import LossWeights, MicroBatch
from swift.trainers.rlhf_trainer.rollout import Rollout
from swift.utils.files import replacing, write_json_lines
from swift.utils.json_lines import json_line
from swift.utils.logger import get_logger
from swift.utils.run_info import plain

logger = get_logger()

LONGEST_ROW = 1 << 26  # bytes; a row of 100,000 tokens takes a tenth of it
NAMED_LINES = 12  # lines in a message


class CompletionsLog:
    """A JSON-lines file with one object per completion, to which the main process alone appends."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def append(self, rows: Sequence[dict[str, Any]]) -> None:
        """Append rows, one line each. After a kill only the last line can be incomplete."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            file.writelines(map(json_line, rows))

    def truncate(self, last_step: int) -> None:
        """Remove rows of steps after ``last_step``, which a resumed run writes again, and an incomplete last line.

        Lines that are not rows are moved to a file beside, with one warning, unless all rows are removed anyway.
        """
        for left in self.path.parent.glob(f".*.{self.path.name}"):  # of a run that was killed here
            left.unlink()
        if not self.path.exists():
            return
        aside, damaged = self.path.with_name(f"{self.path.name}.damaged"), []
        with replacing(self.path) as temporary, temporary.open("wb") as new:
            for number, content, step in _pieces(self.path) if last_step > 0 else ():
                if step is None:
                    damaged.append(number)
                    with aside.open("ab") as file:
                        file.write(content)
                elif step <= last_step:
                    new.write(content)
        if damaged:
            numbers = list(map(str, dict.fromkeys(damaged)))
            more = f" and {len(numbers) - NAMED_LINES} more" if len(numbers) > NAMED_LINES else ""
            shown = ", ".join(numbers[:NAMED_LINES]) + more
            logger.warning("%s: not rows, and moved to %s: lines %s", self.path, aside.name, shown)


def _pieces(path: Path) -> Iterator[tuple[int, bytes, int | None]]:
    """Number (from 1), content and step of every line. Lines that are not rows have None for a step, and longer ones
    than ``LONGEST_ROW`` come in pieces. A last line without its newline is left out unless it is a whole row."""
    number, continued = 1, False
    with path.open("rb") as file:
        while piece := file.readline(LONGEST_ROW):
            ended, cut = piece.endswith(b"\n"), len(piece) == LONGEST_ROW
            step = None if continued or cut else _step_of(piece)
            if step is not None and not ended:
                piece, ended = piece + b"\n", True
            if ended or continued or cut:
                yield number, piece, step
            number, continued = number + ended, not ended


def _step_of(line: bytes) -> int | None:
    """The step of a row; None if ``line`` is not one."""
    try:
        row = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    step = row.get("step") if isinstance(row, dict) else None
    return step if type(step) is int and step > 0 else None


class CompletionsRecorder(TrainerCallback):
    """Collects the rows of a step over its micro-batches. When the step ends, the main process writes those of all."""

    def __init__(self, log: CompletionsLog, reward_names: Sequence[str]) -> None:
        self.log = log
        self.reward_names = list(reward_names)
        self._rows: list[dict[str, Any]] = []

    def add(self, step: int, batch: MicroBatch, logps: Tensor) -> None:
        """Collect the rows of a micro-batch. The other arguments are those of :func:`completion_rows`."""
        rows = completion_rows(step, batch.rollout, self.reward_names, logps)
        self._rows += rows if batch.dependency is None else with_dependency(rows, batch.dependency, batch.weights)

    def on_step_end(self, args, state, control, **kwargs):
        rows, self._rows = gather_object(self._rows), []
        if args.should_save:
            self.log.append(rows)


def completion_rows(step: int, rollout: Rollout, reward_names: Sequence[str], logps: Tensor) -> list[dict[str, Any]]:
    """Build an object per completion of ``rollout``. ``logps`` [N, C] are those of the policy that ``step`` updates."""
    size = rollout.group_size
    ids = rollout.completions.token_lists()
    rows = []
    for row, text in enumerate(rollout.texts):
        item = rollout.items[row // size]
        rewards = zip(reward_names, rollout.rewards[row].tolist(), strict=True)
        rows.append(
            {
                "step": step,
                "group": f"{step}-{item.index}",
                "idx": item.record.columns.get("idx"),
                "prompt": item.prompt.text,
                "solution": item.record.solution,
                "completion": text,
                "raw_completion_tokens": [rollout.tokens[row]],
                "token_ids": ids[row],
                "per_token_logps": [logps[row, : len(ids[row])].tolist()],
                "rewards": {name: None if math.isnan(value) else value for name, value in rewards},
                "advantage": float(rollout.advantages[row]),
                "finished": bool(rollout.completions.finished[row]),
                "in_loss": bool(rollout.in_loss[row]),
            }
        )
        if rollout.preference is not None and rollout.preference[row]:
            rows[-1]["preference"] = int(rollout.preference[row])
    return rows


def with_dependency(rows: list[dict[str, Any]], dependency: Tensor, weights: LossWeights) -> list[dict[str, Any]]:
    """The rows of completions with the visual ``dependency`` [N, C] of their tokens (nats), or null without an image,
    and the weight of each completion if it has one."""
    for place, row in enumerate(rows):
        values = dependency[place, : len(row["token_ids"])].tolist()
        row["per_token_vision_dependency"] = None if any(map(math.isnan, values)) else [values]
        if weights.trajectories is not None:
            row["vision_weight"] = float(weights.trajectories[place])
    return rows


def write_rows(path: str | Path, step: int, rollout: Rollout, reward_names: Sequence[str], logps: Tensor) -> None:
    """Write the rows of `completion_rows` to a file of their own, numbers that are not finite included."""
    write_json_lines(path, [plain(row) for row in completion_rows(step, rollout, reward_names, logps)])

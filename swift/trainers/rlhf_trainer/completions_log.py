"""completions.jsonl: every sampled completion, with its tokens, log-probabilities and rewards."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object
from torch import Tensor
from transformers import TrainerCallback

from swift.trainers.rlhf_trainer.micro_batch import LossWeights, MicroBatch
from swift.trainers.rlhf_trainer.rollout import Rollout
from swift.utils.files import replacing, write_json_lines
from swift.utils.json_lines import JsonLinesFile, json_line
from swift.utils.run_info import plain


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

        Raises UserError for any other line without a step, unless all rows are removed anyway.
        """
        if not self.path.exists():
            return
        lines = JsonLinesFile(self.path, "remove the line, or the file")
        with replacing(self.path) as temporary, temporary.open("wb") as new:
            for line in lines.lines() if last_step > 0 else ():
                if not isinstance(line.value.get("step"), int):
                    raise lines.damage(line.number, "field 'step' is missing or not a whole number")
                if line.value["step"] <= last_step:
                    new.write(line.content)


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

"""A profile of a few steps: a table of stages in profile.json, and a trace of the last of these steps.

The steps are the first ones after a step that warms up, or the first ones of all in a run that is too short. The last
one is traced by torch's profiler, which slows it down, so it does not count in the table unless it is the only one.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile
from transformers import TrainerCallback

from swift.trainers.profile.limits import Limits, Sizes, wait_for
from swift.utils.files import write_json
from swift.utils.logger import get_logger
from swift.utils.stages import StageMeter, StageWork, listening

logger = get_logger()

PROFILE, TRACE = "profile.json", "trace.json.gz"
STEP_STAGES = (
    "waiting for images",
    "prefill",
    "decode",
    "reward",
    "reference",
    "forward",
    "backward",
    "optimizer",
    "other",
)
WITH_PASSES = ("prefill", "decode", "reference", "forward", "backward")  # stages with tokens and operations


class StepProfile(TrainerCallback):
    """Profiles ``count`` steps of this process, and writes into ``folder`` when the last of them ends."""

    def __init__(self, count: int, folder: str | Path, compute_type: torch.dtype) -> None:
        self.count, self.folder, self.compute_type = count, Path(folder), compute_type
        self.first = 1
        self._taken: list[dict[str, StageWork]] = []
        self._meter: StageMeter | None = None
        self._trace: profile | None = None
        self._open = ExitStack()

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        done = state.global_step
        self.first = done + (2 if state.max_steps - done > self.count else 1)
        self._begin_if_due(args, state)

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        if self._meter is not None:
            self._meter.enter("optimizer")

    def on_optimizer_step(self, args, state, control, **kwargs):
        if self._meter is not None:
            self._meter.leave()

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if self._meter is not None:
            self._taken.append(self._meter.take())
            if self._trace is not None:
                self._finish(args, model)
        self._begin_if_due(args, state)

    def on_evaluate(self, args, state, control, **kwargs):
        self._forget()

    def on_save(self, args, state, control, **kwargs):
        self._forget()

    def on_train_end(self, args, state, control, model=None, **kwargs):
        if self._meter is not None:  # stopped by a signal
            self._finish(args, model)

    def _forget(self) -> None:
        """Leave out what happens between steps."""
        if self._meter is not None:
            self._meter.take()

    def _begin_if_due(self, args: Any, state: Any) -> None:
        step = state.global_step + 1
        if step == self.first and self._meter is None:
            self._meter = StageMeter(wait_for(args.device))
            self._open.enter_context(listening(self._meter))
        if self._meter is not None and step == self.first + self.count - 1:
            kinds = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (args.device.type == "cuda")
            self._trace = self._open.enter_context(profile(activities=kinds))
            self._forget()

    def _finish(self, args: Any, model: nn.Module) -> None:
        """Stop listening, and write table and trace."""
        self._open.close()
        self._meter, trace, self._trace = None, self._trace, None
        if trace is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            trace.export_chrome_trace(str(self.folder / TRACE))
        timed = self._taken[:-1] if trace is not None and len(self._taken) > 1 else self._taken
        if not timed:
            return
        limits = Limits.measured(args.device, self.compute_type)
        sizes = Sizes.of(getattr(model, "module", model), self.compute_type)
        rows = stage_rows(timed, sizes, limits)
        facts = {
            "first_step": self.first,
            "steps": len(timed),
            "device": torch.cuda.get_device_name(args.device) if args.device.type == "cuda" else "cpu",
            "bandwidth_gb_per_second": limits.bandwidth / 1e9,
            "compute_tflops": limits.compute / 1e12,
            "trace": TRACE if trace is not None else None,
        }
        write_json(self.folder / PROFILE, {**facts, "stages": rows})
        for line in lines(rows):
            logger.info("profile: %s", line)


def stage_rows(steps: list[dict[str, StageWork]], sizes: Sizes, limits: Limits) -> list[dict[str, Any]]:
    """One row per stage: seconds per step, share of the step, and where they apply tokens per second and the shares of
    the device's bandwidth and compute limits (``limits``). Stages that took no time are left out."""
    total = sum(stage.seconds for step in steps for stage in step.values())
    rows = []
    for name in STEP_STAGES:
        own = [step[name] for step in steps if name in step]
        seconds = sum(stage.seconds for stage in own)
        if not seconds:
            continue
        # A backward pass counts no work of its own: it is that of the forward pass.
        worked = own if name != "backward" else [step["forward"] for step in steps if "forward" in step]
        row: dict[str, Any] = {"stage": name, "seconds": seconds / len(steps), "share": seconds / total}
        if name in WITH_PASSES and any(stage.tokens for stage in worked):
            row["tokens_per_second"] = sum(stage.tokens for stage in worked) / seconds
            row["compute_share"] = sum(sizes.operations(name, stage) for stage in worked) / seconds / limits.compute
        if traffic := sum(sizes.traffic(name, stage) for stage in worked):
            row["bandwidth_share"] = traffic / seconds / limits.bandwidth
        rows.append(row)
    return rows


def lines(rows: list[dict[str, Any]]) -> list[str]:
    """The table as text, a line per stage."""
    shown = [f"{'stage':20}{'seconds':>9}{'share':>7}{'tokens/s':>10}{'compute':>9}{'bandwidth':>11}"]
    for row in rows:
        tokens = f"{row['tokens_per_second']:,.0f}" if "tokens_per_second" in row else ""
        shares = [f"{row[name]:.1%}" if name in row else "" for name in ("compute_share", "bandwidth_share")]
        numbers = f"{row['seconds']:>9.3f}{row['share']:>7.1%}{tokens:>10}"
        shown.append(f"{row['stage']:20}{numbers}{shares[0]:>9}{shares[1]:>11}".rstrip())
    return shown

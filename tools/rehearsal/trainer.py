"""The trainer of a rehearsal: GRPO with a gauge on every part."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from swift.engine.probe import Paths
from swift.trainers.memory_plan import MemoryPlan
from swift.trainers.rlhf_trainer.grpo_trainer import GRPOTrainer
from tools.rehearsal.gauges import Measure, PartGauge


class RehearsalTrainer(GRPOTrainer):
    """GRPO that measures its parts with ``gauge``."""

    def __init__(self, *args: Any, gauge: PartGauge, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.remove_callback(self.clock)
        self.clock = gauge
        self.add_callback(gauge)
        self.announced: MemoryPlan | None = None  # before an engine divides the model

    def memory_plan(self) -> MemoryPlan:
        """The plan; the first one is kept for the report."""
        plan = super().memory_plan()
        self.announced = self.announced or plan
        return plan

    def probe(self) -> Paths:
        """Measured as a part of its own."""
        with self.clock.timed("probe"):
            return super().probe()

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        with self.clock.timed("save"):
            super()._save_checkpoint(model, trial)

    def measures(self) -> dict[str, Measure]:
        """The parts by name, of the slowest and the largest process. Called by all processes alike."""
        self.clock.finish()
        parts = self.clock.parts
        with_device = all(measure.device is not None for measure in parts.values())
        row = torch.tensor([[m.seconds, m.host, m.device or 0.0] for m in parts.values()], dtype=torch.float32)
        highest = self.gather_rows(row.view(1, -1)).amax(dim=0).view(-1, 3).tolist()
        return {
            part: Measure(seconds, host, device if with_device else None)
            for part, (seconds, host, device) in zip(parts, highest, strict=True)
        }

"""Scoring of completions with the rewards of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from swift.engine.batch import Completions
from swift.plugin.rewards import LogMetric, logs_metrics, reward_matrix, reward_metrics
from swift.trainers.data import PromptItem
from swift.trainers.metrics import Means
from swift.trainers.rlhf_trainer.figures import observe_sums
from swift.trainers.rlhf_trainer.rollout import Rollout, reward_columns
from swift.utils.distributed import is_master
from swift.utils.logger import get_logger

logger = get_logger()

SILENT_CALLS = 10  # after which a reward that has never applied is warned of


class RewardScorer:
    """Scores completions with ``rewards``, (name, reward) pairs, and collects the metrics that they log themselves.

    Args:
        prefilled: text that every completion begins with and that was not sampled.
        timeout: seconds that a reward may take; None for any time.
        state: returns the Trainer's state, which rewards may ask for.
    """

    def __init__(
        self, rewards: Sequence[tuple[str, Any]], prefilled: str, timeout: float | None, state: Callable[[], Any]
    ) -> None:
        self.rewards = list(rewards)
        self.names = [name for name, _ in self.rewards]
        self.prefilled, self.timeout, self.state = prefilled, timeout, state
        self.logged = Means()  # metrics of rewards' own, whose names may differ between processes
        self._logs = any(logs_metrics(reward) for _, reward in self.rewards)
        self._silent = dict.fromkeys(self.names, 0)  # calls so far, of rewards that have applied to no completion yet
        self._warned = False

    def __call__(
        self,
        items: Sequence[PromptItem],
        group_size: int,
        completions: Completions,
        texts: Sequence[str],
        log_metric: LogMetric | None = None,
    ) -> Tensor:
        """Rewards [N, R] of N completions, ``group_size`` of each of ``items``, NaN if one does not apply.

        ``texts`` are the completions as text. ``log_metric`` receives the metrics of rewards' own; by default they go
        to the training log.
        """
        whole, columns = self._whole(items, group_size, completions, texts)
        log_metric = log_metric or self.logged.add
        scores = reward_matrix(self.rewards, whole, columns, timeout=self.timeout, log_metric=log_metric)
        if is_master():
            self._warn_of_silence(~np.isnan(scores).all(axis=0))
        return torch.as_tensor(scores, dtype=torch.float32, device=completions.ids.device)

    def _warn_of_silence(self, applied: np.ndarray) -> None:
        """Warn of rewards that are None throughout. ``applied`` [R] says which ones were not in this call."""
        if not applied.any() and not self._warned:
            self._warned = True
            logger.warning("no reward applies to any completion of a step: there is nothing to learn from it")
        for name in np.array(self.names)[applied]:
            self._silent.pop(name, None)
        for name in self._silent:
            self._silent[name] += 1
            if self._silent[name] == SILENT_CALLS:
                logger.warning("reward %s applied to no completion so far; see what it reads, or leave it out", name)

    def observe_figures(self, means: Means, rollout: Rollout) -> None:
        """Observe the further figures of rewards that have a method ``metrics``."""
        whole, columns = self._whole(rollout.items, rollout.group_size, rollout.completions, rollout.texts)
        observe_sums(means, reward_metrics(self.rewards, whole, columns, self.timeout))

    def _whole(
        self, items: Sequence[PromptItem], group_size: int, completions: Completions, texts: Sequence[str]
    ) -> tuple[list[str], dict[str, Any]]:
        """The texts with what they begin with, and the columns that rewards read beside them."""
        whole = [self.prefilled + text for text in texts]
        return whole, reward_columns(items, group_size, completions, whole, self.state())

    def pop_logged(self, pop_means: Callable[[Means], dict[str, float]]) -> dict[str, float]:
        """The means of rewards' own metrics since the last call. ``pop_means`` takes them over all processes, which
        call it together."""
        return pop_means(self.logged) if self._logs else {}

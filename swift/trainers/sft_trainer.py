"""Supervised fine-tuning: the log-likelihood of each record's solution after its prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from swift.llm.dataset import Record
from swift.llm.policy import Policy
from swift.llm.template import Phi4Template
from swift.trainers.data import PromptDataset, PromptItem
from swift.trainers.metrics import Means
from swift.trainers.policy_trainer import PolicyTrainer
from swift.trainers.rlhf_trainer.batch import Completions, PromptBatch, collate_completions, collate_prompts
from swift.trainers.rlhf_trainer.scoring import score


class SFTTrainer(PolicyTrainer):
    """SFT on `transformers.Trainer`; the loss is averaged over all solution tokens of the global batch."""

    def __init__(
        self,
        *,
        args,
        train_dataset: Sequence[Record],
        policy: Policy,
        template: Phi4Template,
        eval_dataset: Sequence[Record] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            policy.model,
            args,
            PromptDataset(train_dataset, template),
            policy,
            prompts_per_device=args.per_device_train_batch_size,
            eval_dataset=PromptDataset(eval_dataset, template) if eval_dataset else None,
            **kwargs,
        )
        self.template = template

    def get_batch_samples(
        self, epoch_iterator: Iterator[list[PromptItem]], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, tuple[PromptBatch, Completions]]], Tensor | None]:
        """The micro-batches of one optimizer step, and the solution tokens of the global batch."""
        pairs = [self._collate(items) for items in self.take_prompts(epoch_iterator, num_batches)]
        if not pairs:
            return [], None
        tokens = sum(completions.lengths.sum() for _, completions in pairs)
        return [{"pair": pair} for pair in pairs], self.all_sum(tokens)

    @torch.no_grad()
    def observe_validation(self, items: list[PromptItem], means: Means) -> None:
        prompts, completions = self._collate(items)
        logps = score(self.model, prompts, completions, packed=False).logps
        means.add("loss", -float(logps.sum()), float(completions.lengths.sum()))

    def _collate(self, items: Sequence[PromptItem]) -> tuple[PromptBatch, Completions]:
        pad, device = self.template.pad_token_id, self.args.device
        solutions = [self.template.encode_completion(item.record.solution) for item in items]
        return (
            collate_prompts([item.prompt for item in items], pad, device),
            collate_completions(solutions, pad, device),
        )

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Negative log-likelihood of this micro-batch over the tokens of the global batch, times world_size since
        data-parallel training averages gradients over processes."""
        prompts, completions = inputs["pair"]
        logps = score(model, prompts, completions, packed=False).logps
        return -logps.sum() / num_items_in_batch * self.args.world_size

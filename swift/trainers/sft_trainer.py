"""Supervised fine-tuning: the log-likelihood of each record's solution after its prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from swift.engine.batch import Completions, PromptBatch
from swift.engine.logprobs import completion_logprobs
from swift.engine.probe import choose_paths
from swift.llm.arguments import SFTArguments
from swift.llm.dataset import Record
from swift.llm.policy import Policy
from swift.llm.template.protocol import Template
from swift.trainers.data import PromptDataset, PromptItem, example_prompts, prompt_lengths
from swift.trainers.memory_plan import Load, MemoryPlan, announce_plan
from swift.trainers.metrics import Means
from swift.trainers.policy_trainer import PolicyTrainer
from swift.trainers.question_groups import QuestionGroups, collate_groups
from swift.utils.stages import staged

Batch = tuple[PromptBatch, Completions, Tensor]  # as collate_groups returns it


class SFTTrainer(PolicyTrainer):
    """SFT on `transformers.Trainer`. The loss is averaged over all solution tokens of the global batch."""

    def __init__(
        self,
        *,
        args: SFTArguments,
        train_dataset: Sequence[Record],
        policy: Policy,
        template: Template,
        eval_dataset: Sequence[Record] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            policy.model,
            args,
            QuestionGroups(train_dataset, template, args.questions_per_row),
            policy,
            prompts_per_device=args.per_device_train_batch_size,
            eval_dataset=PromptDataset(eval_dataset, template) if eval_dataset else None,
            **kwargs,
        )
        self.template = template
        self.packed = False

    def train(self, resume_from_checkpoint: str | None = None, **kwargs: Any):
        """Train. Rows of several questions are packed if the model supports it."""
        announce_plan(self.memory_plan(), self.args.device)
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def begin(self) -> None:
        """Choose the fast path of scoring."""
        with self.whole_policy(), self.computing_weights():
            examples = example_prompts(self.train_dataset.prompts)
            chosen = choose_paths(
                self.model, self.template, examples, self.compute_type, attn_impl=self.policy.attn_impl
            )
            self.packed = chosen.packed

    def memory_plan(self) -> MemoryPlan:
        """The memory that this process will take."""
        return self.plan(self.largest_step())

    def largest_step(self) -> Load:
        """The largest step, without a rollout. The longest solution is the one with the most characters."""
        prompts, args = self.train_dataset.prompts, self.args
        solution = max((record.solution for record in prompts.records), key=len)
        shortest, longest = prompt_lengths(prompts)
        rows = min(self.prompts_per_device, len(self.train_dataset))
        return Load(
            prompts=0,
            shortest_prompt=shortest,
            longest_prompt=longest,
            group_size=args.questions_per_row,
            completion_tokens=len(self.template.encode_completion(solution)),
            prompts_per_update=rows,
            completions_per_update=rows * args.questions_per_row,
        )

    def get_batch_samples(
        self, epoch_iterator: Iterator[list[list[PromptItem]]], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Batch]], Tensor | None]:
        """All micro-batches of one optimizer step, and the number of solution tokens in the global batch."""
        batches = [self._collate(groups) for groups in self.take_prompts(epoch_iterator, num_batches)]
        if not batches:
            return [], None
        tokens = sum(learned.sum() for _, _, learned in batches)
        return [{"batch": batch} for batch in batches], self.all_sum(tokens)

    @torch.no_grad()
    def observe_validation(self, items: list[PromptItem], means: Means) -> None:
        """Observe the loss per solution token."""
        batch = self._collate([[item] for item in items])
        means.add("loss", -float(self._log_likelihood(self.model, batch)), float(batch[2].sum()))

    def _collate(self, groups: Sequence[Sequence[PromptItem]]) -> Batch:
        return collate_groups(groups, self.template, self.args.device)

    def _log_likelihood(self, model: nn.Module, batch: Batch) -> Tensor:
        prompts, completions, learned = batch
        packed = self.packed and len(completions) > len(prompts)
        return (completion_logprobs(model, prompts, completions, packed=packed).logps * learned).sum()

    def describe_batch(self, inputs: dict[str, Any]) -> str:
        """The rows and tokens of a micro-batch and the flags that make it smaller."""
        prompts, completions, _ = inputs["batch"]
        tokens = int(prompts.mask.sum()) + int(completions.lengths.sum())
        return (
            f"{len(prompts)} rows of {tokens} tokens in all; halve --per_device_train_batch_size or "
            "--questions_per_row, or pass --gradient_checkpointing true"
        )

    @staged("forward")
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Negative log-likelihood of this micro-batch over the number of tokens in the global batch.

        Data-parallel training averages gradients over processes, hence the factor world_size.
        """
        return -self._log_likelihood(model, inputs["batch"]) / num_items_in_batch * self.args.world_size

"""Group relative policy optimization of a vision-language policy.

One optimizer step:

1. Draw prompts and encode each once.
2. Sample G completions of every prompt in one decoding batch.
3. Score the completions with the rewards, and turn rewards into advantages (advantages.py).
4. Complete the micro-batches with the terms of the loss that depend on the whole step (step_terms.py).
5. Per micro-batch, run one forward and backward for the policy loss plus the KL to the reference (policy_loss.py).

Formulas and their sources are in loss.py and advantages.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from swift.engine.batch import Completions, PromptBatch, collate_prompts
from swift.engine.logprobs import LogProbs
from swift.engine.long_groups import Passes
from swift.engine.probe import Paths, choose_paths
from swift.engine.rollout.choosing import Sampling
from swift.engine.sampling import generate
from swift.llm.arguments import RLHFArguments
from swift.llm.dataset import Record
from swift.llm.policy import Policy, embeds_prompts_frozen, prompt_embeddings
from swift.llm.template.protocol import Template
from swift.trainers.accumulation import gradients_kept
from swift.trainers.data import PromptDataset, PromptItem, example_prompts
from swift.trainers.memory_plan import Load, MemoryPlan, announce_plan
from swift.trainers.metrics import Means
from swift.trainers.policy_trainer import PolicyTrainer
from swift.trainers.rlhf_trainer.advantages import Estimator, combine_rewards, group_spread
from swift.trainers.rlhf_trainer.agreement import check_sampled, samples_whole_distribution
from swift.trainers.rlhf_trainer.completions_log import CompletionsLog, CompletionsRecorder, write_rows
from swift.trainers.rlhf_trainer.dynamic_sampling import other_prompts, resampled
from swift.trainers.rlhf_trainer.figures import observe_answers, observe_rollout, observe_tokens
from swift.trainers.rlhf_trainer.flat_groups import FlatGroups
from swift.trainers.rlhf_trainer.micro_batch import MicroBatch, TokenScorer, score_for_loss, with_advantages
from swift.trainers.rlhf_trainer.passes import check_passes, choose_passes
from swift.trainers.rlhf_trainer.policy_loss import LossTerms, PolicyLoss, TokenFigures, sliced_policy_loss
from swift.trainers.rlhf_trainer.reference_policy import ReferencePolicy, SyncReference, choose_reference
from swift.trainers.rlhf_trainer.rollout import (
    VALIDATION,
    Rollout,
    describe_rollout,
    largest_load,
    rollout_out_of_memory,
    rollout_uniforms,
    sampling_settings,
)
from swift.trainers.rlhf_trainer.scoring import RewardScorer
from swift.trainers.rlhf_trainer.step_terms import StepTerms
from swift.trainers.rlhf_trainer.vision.masked_prompts import MaskedPrompts
from swift.trainers.sharding.parameters import is_sharded
from swift.trainers.step_clock import UPDATE, StepClock
from swift.utils.logger import get_logger
from swift.utils.run_folder import finished_step
from swift.utils.stages import staged

logger = get_logger()


class GRPOTrainer(PolicyTrainer):
    """GRPO on `transformers.Trainer`.

    ``reward_funcs`` are (name, reward) pairs. ``ref_model`` is a second model to serve as the reference; without it the
    reference is a snapshot of the trainable tensors, taken when training begins. The trainable parameters are read when
    training begins, so a wrapper around ``__init__`` may still change them.
    """

    remedy = "lower --learning_rate or --beta, check the rewards, and resume from the last checkpoint"

    def __init__(
        self,
        model: nn.Module | None = None,
        ref_model: nn.Module | None = None,
        *,
        args: RLHFArguments,
        train_dataset: Sequence[Record],
        policy: Policy,
        template: Template,
        reward_funcs: Sequence[tuple[str, Any]],
        eval_dataset: Sequence[Record] | None = None,
        **kwargs: Any,
    ) -> None:
        self.template = template
        self.scorer = RewardScorer(reward_funcs, template.prefilled, args.reward_timeout, lambda: self.state)
        self.reward_names = self.scorer.names
        super().__init__(
            policy.model if model is None else model,
            args,
            PromptDataset(train_dataset, template),
            policy,
            prompts_per_device=args.per_device_train_batch_size // args.num_generations,
            repeats=args.num_iterations,
            steps_at_once=args.steps_per_rollout,
            eval_dataset=PromptDataset(eval_dataset, template) if eval_dataset else None,
            **kwargs,
        )
        self.ref_model = ref_model
        self.weights = torch.tensor(args.reward_weights or [1.0] * len(self.reward_names))
        self.sampling = sampling_settings(args, template)
        self.means = Means()
        self.estimator, self.policy_loss = Estimator.of(args, self.weights), PolicyLoss.of(args)
        self.flat_groups = FlatGroups.of(args, self.weights, template, self.scorer)
        self.masked_prompts = MaskedPrompts.of(args, template)
        self.step_terms = StepTerms(args, self.means, self._score_now, self.all_sum, self.all_values)
        self.clock = StepClock(self.means, "rollout", "reward")
        self.add_callback(self.clock)
        self.completions_log = CompletionsLog(Path(args.output_dir) / "completions.jsonl")
        self.recorder = CompletionsRecorder(self.completions_log, self.reward_names) if args.log_completions else None
        if self.recorder is not None:
            self.add_callback(self.recorder)
        self.reference: ReferencePolicy | None = None
        self.paths = Paths(packed=False, shared=False)
        self._rollout_parts: dict[str, float] = {}
        self.passes: Passes | None = None  # in which long groups are updated; None: in packed rows
        self._micro_batches: list[MicroBatch] = []
        self._last: tuple[Rollout, TokenFigures] | None = None  # the micro-batch whose loss was computed last

    def train(self, resume_from_checkpoint: str | None = None, **kwargs: Any):
        """Train; the reference is the policy as it is now, before a checkpoint is resumed."""
        if self.args.beta:
            self.reference = choose_reference(self.model, self.ref_model, moves=self.args.sync_ref_model)
            self.ref_model = self.reference.model
            if self.args.sync_ref_model:
                self.add_callback(SyncReference(self.reference))
        self.passes = choose_passes(self.args.tokens_per_pass, self.largest_step(), self.plan_of, self.args.device)
        plan = self.memory_plan()
        announce_plan(plan, self.args.device)
        self._rollout_parts = plan.rollout  # an engine may divide the model later, which could not be counted any more
        if self.ref_model is not None:
            self.ref_model.to(self.args.device)
        self.share_embeddings = embeds_prompts_frozen(self.model)
        logger.info("image features: computed %s", "once per step" if self.share_embeddings else "again in every pass")
        if self.args.should_save:
            self.completions_log.truncate(finished_step(resume_from_checkpoint) if resume_from_checkpoint else 0)
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def begin(self) -> None:
        """Divide the reference as the policy was divided, and choose the fast paths."""
        if self.reference is not None:
            self.reference.divide(self.model)
            if self.args.sync_ref_model and self._resumed is not None:
                self.reference.load(self.model, self._resumed)
        divided = is_sharded(self.model)  # gathered parameters do not show it
        with self.whole_policy(), self.computing_weights():
            self.paths = self.probe()
            if self.passes is not None:
                taken = self.model, self.template, example_prompts(self.train_dataset)
                self.passes = check_passes(self.passes, *taken, packed=self.paths.packed, divided=divided)

    def rollout_bytes(self) -> float:
        """Bytes that a rollout takes beside the weights, from the memory plan."""
        return sum(self._rollout_parts.values())

    def probe(self) -> Paths:
        """The fast paths that the model takes, measured (swift.engine.probe)."""
        asked, examples = self.args.compile_rollout, example_prompts(self.train_dataset)
        compiled = not self.synced and (asked == "true" or (asked == "auto" and self.args.device.type == "cuda"))
        more = {"compile_rollout": compiled, "attn_impl": self.policy.attn_impl}
        return choose_paths(self.model, self.template, examples, self.compute_type, **more)

    def memory_plan(self) -> MemoryPlan:
        """The memory that this process will take."""
        return self.plan_of(replace(self.largest_step(), passes=self.passes))

    def plan_of(self, load: Load) -> MemoryPlan:
        """The memory that this process would take with ``load`` as its largest step."""
        return self.plan(load, 0 if self.reference is None else self.reference.nbytes())

    def largest_step(self) -> Load:
        """The largest step. All its micro-batches are rolled out at once."""
        return largest_load(self.args, self.train_dataset, self.prompts_per_device)

    # -- sampling ------------------------------------------------------------------------------------------------

    def get_batch_samples(
        self, epoch_iterator: Iterator[list[PromptItem]], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, MicroBatch]], Tensor | None]:
        """All micro-batches of one optimizer step, sampled and scored, and the completion tokens of the global batch.

        A rollout serves one step or several, each with micro-batches of its own (steps_per_generation), and the same
        micro-batches come back as often as num_iterations says.
        """
        steps, place = self.steps_at_once, self.state.global_step % (self.steps_at_once * self.args.num_iterations)
        if place % steps == 0 or not self._micro_batches:
            batches = self.take_prompts(epoch_iterator, num_batches * (steps - place % steps))
            if not batches:
                return [], None
            if place == 0 or not self._micro_batches:  # otherwise the same prompts come back with num_iterations
                self._micro_batches = self._prepare(batches)
        start = place % max(1, len(self._micro_batches) // num_batches) * num_batches
        batches, tokens = self.step_terms.complete(self._micro_batches[start : start + num_batches])
        return [{"batch": batch} for batch in batches], tokens

    def _prepare(self, prompts: list[list[PromptItem]]) -> list[MicroBatch]:
        """Roll out micro-batches of prompts, score them under the policies that the loss compares with, and turn their
        rewards into advantages."""
        self.model.eval()
        alike = is_sharded(self.model)
        try:
            with self.whole_policy(), self.computing_weights():
                rewards, rollouts = self._sample(prompts)
                masked = [self.masked_prompts(self.model, rollout, alike=alike) for rollout in rollouts]
            with self.clock.timed(UPDATE):
                policies = self.model, self.reference
                batches = [
                    score_for_loss(rollout, *policies, self.args, self._score, prompts)
                    for rollout, prompts in zip(rollouts, masked, strict=True)
                ]
        except torch.OutOfMemoryError as error:
            count, step = sum(map(len, prompts)), self.state.global_step + 1
            raise rollout_out_of_memory(step, count, self.args.num_generations) from error
        return with_advantages(batches, rewards, self.estimator, self.all_sum)

    def _sample(self, batches: list[list[PromptItem]]) -> tuple[Tensor, list[Rollout]]:
        """Roll out all micro-batches at once and split the result into micro-batches again. In between, groups without
        spread are replaced or treated. Returns also the rewards [N, R] that the completions of all have earned."""
        rollout = self._roll_out([item for batch in batches for item in batch], attempt=0)
        anywhere = self.any_process if self.synced else bool
        rollout = resampled(rollout, self.args, self.means, self._roll_out_others, try_again=anywhere)
        observe_rollout(self.means, rollout, self.reward_names, self.weights, self.all_sum)
        with self.clock.timed("reward"):
            self.scorer.observe_figures(self.means, rollout)
            rewards, rollout = rollout.rewards, self.flat_groups(rollout, self.means)
        starts = np.cumsum([0] + [len(batch) for batch in batches])
        return rewards, [rollout.select(range(start, stop)) for start, stop in itertools.pairwise(starts.tolist())]

    def _roll_out(self, items: list[PromptItem], attempt: int) -> Rollout:
        """Sample a group of completions of each prompt and score them."""
        size, device = self.args.num_generations, self.args.device
        with self.clock.timed("rollout"):
            pictured = prompts = collate_prompts([item.prompt for item in items], self.sampling.pad_token_id, device)
            if self.share_embeddings:
                embeds = prompt_embeddings(self.model, prompts.input_ids, prompts.image_inputs())
                prompts = prompts.with_embeds(embeds)
            uniforms = rollout_uniforms(items, size, self.args, self.state.global_step, attempt)
            completions = self._generate(prompts if self.paths.shared else pictured, size, self.sampling, uniforms)
            tokens = [self.template.decode_tokens(ids) for ids in completions.token_lists()]
            texts = ["".join(pieces) for pieces in tokens]
        with self.clock.timed("reward"):
            rewards = self.scorer(items, size, completions, texts)
            std = group_spread(combine_rewards(rewards, self.weights.to(device)), size)
        in_loss = completions.finished if self.args.overlong_filter else torch.ones_like(completions.finished)
        unknown = torch.zeros(len(texts), device=device)  # advantages, until all rewards of the batch are known
        return Rollout(items, prompts, completions, texts, tokens, rewards, unknown, std, in_loss)

    def _generate(
        self, prompts: PromptBatch, group_size: int, sampling: Sampling, uniforms: Tensor | None = None
    ) -> Completions:
        """Sample by the paths that the model takes."""
        paths = {"shared": self.paths.shared, "compiled": self.paths.compiled, "synced": self.synced}
        return generate(self.model, prompts, group_size, sampling, uniforms, **paths)

    def _roll_out_others(self, count: int, taken: set[int], attempt: int) -> Rollout:
        """Roll out ``count`` prompts outside ``taken``, other ones in every process."""
        key = (self.args.seed, self.state.global_step, attempt, self.args.process_index)
        indexes = other_prompts(len(self.train_dataset), count, taken, key)
        return self._roll_out(self.train_dataset.items(indexes), attempt)

    def _score_now(self, rollout: Rollout) -> LogProbs:
        """Score ``rollout`` under the policy as it is now, entropy included, without gradient."""
        self.model.eval()
        with self.clock.timed(UPDATE):
            return self._score(self.model, rollout, with_entropy=True)

    @property
    def _score(self) -> TokenScorer:
        """Scores rollouts under a model by the path that it takes."""
        return TokenScorer(self.args.temperature, self.paths.packed)

    @torch.no_grad()
    def observe_validation(self, items: list[PromptItem], means: Means) -> None:
        """Observe the rewards of one greedy completion per prompt, or of as many samples as num_generations_eval."""
        count = self.args.num_generations_eval
        prompts = collate_prompts([item.prompt for item in items], self.sampling.pad_token_id, self.args.device)
        sampling = self.sampling if count else replace(self.sampling, temperature=0)
        uniforms = rollout_uniforms(items, count, self.args, VALIDATION) if count else None
        completions = self._generate(prompts, count or 1, sampling, uniforms)
        texts = [self.template.decode(ids) for ids in completions.token_lists()]
        rewards = self.scorer(items, count or 1, completions, texts, means.add)
        observe_answers(means, rewards, self.reward_names, self.weights, completions, count)

    # -- update --------------------------------------------------------------------------------------------------

    @staged("forward")
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """This micro-batch's part of the loss of the step.

        Data-parallel training averages gradients over processes, hence the factor world_size.
        """
        batch: MicroBatch = inputs["batch"]
        if self.passes is None:
            scores = self._score(model, batch.rollout, with_entropy=True)
            total, figures = self.policy_loss(scores, LossTerms.of(batch))
        else:
            total, figures = sliced_policy_loss(model, batch, self.passes, self.policy_loss, self.args.temperature)
        self._last = batch.rollout, figures
        loss = total / batch.divisor * self.args.world_size
        return (loss, figures) if return_outputs else loss

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | None = None
    ) -> Tensor:
        """Forward and backward of a micro-batch, in mini-batches if asked for. Figures and completions are recorded."""
        parts = inputs["batch"].parts(self.args.mini_batch_size)
        losses = []
        for number, part in enumerate(parts, 1):
            with nullcontext() if number == len(parts) else gradients_kept(self.accelerator, model):
                losses.append(super().training_step(model, {"batch": part}, num_items_in_batch))
            rollout, figures = self._last
            if part.old_logps is None and samples_whole_distribution(self.sampling):
                check_sampled(figures.logps, figures.observed["entropy"], rollout.sampled)
            observe_tokens(self.means, figures)
            if self.recorder is not None:
                self.recorder.add(self.state.global_step + 1, part, figures.logps)
        return sum(losses)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.args.sync_ref_model:
            self.reference.save(self.model, output_dir, writes=self.args.should_save)

    def describe_batch(self, inputs: dict[str, Any]) -> str:
        """The rows and tokens of a micro-batch and the flags that make it smaller."""
        return describe_rollout(inputs["batch"].rollout)

    def evidence(self) -> str:
        """Write the groups of the last micro-batch, whose loss or gradient is not finite, beside completions.jsonl."""
        step, (rollout, figures) = self.state.global_step + 1, self._last
        path = Path(self.args.output_dir) / f"not_finite_step{step}_process{self.args.process_index}.jsonl"
        write_rows(path, step, rollout, self.reward_names, figures.logps)
        return f", its groups are in {path}"

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log the means of the steps since the last entry along with the Trainer's own figures."""
        if "loss" in logs:
            logs.update(self.pop_means(self.means) | self.scorer.pop_logged(self.pop_means))
        super().log(logs, *args, **kwargs)

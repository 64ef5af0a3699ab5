"""Group relative policy optimization of a vision-language policy.

One optimizer step:

1. Draw prompts and encode each once.
2. Sample G completions of every prompt in one decoding batch.
3. Score the completions with the rewards, and turn rewards into advantages within each group.
4. Per micro-batch, run one forward and backward for the clipped loss plus the KL to the reference.

Formulas and their sources are in loss.py.
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
from swift.engine.logprobs import LogProbs, completion_logprobs
from swift.engine.long_groups import Passes
from swift.engine.probe import Paths, choose_paths
from swift.engine.rollout.choosing import Sampling, prompt_uniforms
from swift.engine.sampling import generate
from swift.llm.arguments import RLHFArguments
from swift.llm.dataset import Record
from swift.llm.policy import Policy, embeds_prompts_frozen, prompt_embeddings
from swift.llm.template.protocol import Template
from swift.plugin.rewards import reward_matrix, reward_metrics
from swift.trainers.accumulation import gradients_kept
from swift.trainers.data import PromptDataset, PromptItem, example_prompts
from swift.trainers.memory_plan import Load, MemoryPlan, announce_plan
from swift.trainers.metrics import Means
from swift.trainers.policy_trainer import PolicyTrainer
from swift.trainers.rlhf_trainer.agreement import check_sampled, samples_whole_distribution
from swift.trainers.rlhf_trainer.completions_log import CompletionsLog, CompletionsRecorder, completion_rows
from swift.trainers.rlhf_trainer.dynamic_sampling import other_prompts, replace_flat_groups
from swift.trainers.rlhf_trainer.figures import observe_rewards, observe_rollout, observe_sums, observe_tokens
from swift.trainers.rlhf_trainer.loss import combine_rewards, group_advantages
from swift.trainers.rlhf_trainer.passes import check_passes, choose_passes
from swift.trainers.rlhf_trainer.policy_loss import LossTerms, TokenFigures, policy_loss, sliced_policy_loss
from swift.trainers.rlhf_trainer.reference_policy import ReferencePolicy, choose_reference
from swift.trainers.rlhf_trainer.rollout import (
    MicroBatch,
    Rollout,
    describe_rollout,
    largest_load,
    reward_columns,
    rollout_out_of_memory,
    sampling_settings,
)
from swift.trainers.step_clock import UPDATE, StepClock
from swift.utils.files import write_json_lines
from swift.utils.logger import get_logger
from swift.utils.run_folder import finished_step
from swift.utils.run_info import plain
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
        self.rewards = list(reward_funcs)
        self.reward_names = [name for name, _ in self.rewards]
        super().__init__(
            policy.model if model is None else model,
            args,
            PromptDataset(train_dataset, template),
            policy,
            prompts_per_device=args.per_device_train_batch_size // args.num_generations,
            repeats=args.num_iterations,
            eval_dataset=PromptDataset(eval_dataset, template) if eval_dataset else None,
            **kwargs,
        )
        self.ref_model = ref_model
        self.weights = torch.tensor(args.reward_weights or [1.0] * len(self.rewards))
        self.sampling = sampling_settings(args, template)
        self.means = Means()
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
            self.reference = choose_reference(self.model, self.ref_model)
            self.ref_model = self.reference.model
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
        with self.whole_policy(), self.computing_weights():
            self.paths = self.probe()
            if self.passes is not None:
                examples = example_prompts(self.train_dataset)
                self.passes = check_passes(self.passes, self.model, self.template, examples, self.paths.packed)

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

        With num_iterations above 1 the same micro-batches come back that many times.
        """
        batches = self.take_prompts(epoch_iterator, num_batches)
        if not batches:
            return [], None
        if self.state.global_step % self.args.num_iterations == 0 or not self._micro_batches:
            self.model.eval()
            try:
                with self.whole_policy(), self.computing_weights():
                    rollouts = self._sample(batches)
                self._micro_batches = [self._compare(rollout) for rollout in rollouts]
            except torch.OutOfMemoryError as error:
                raise rollout_out_of_memory(
                    self.state.global_step + 1, sum(map(len, batches)), self.args.num_generations
                ) from error
        tokens = sum(batch.rollout.loss_mask.sum() for batch in self._micro_batches)
        return [{"batch": batch} for batch in self._micro_batches], self.all_sum(tokens)

    def _sample(self, batches: list[list[PromptItem]]) -> list[Rollout]:
        """Roll out all micro-batches of the step at once and split the result into micro-batches again. With dynamic
        sampling, groups without spread are replaced in between."""
        rollout = self._roll_out([item for batch in batches for item in batch], attempt=0)
        if self.args.dynamic_sample:
            min_std = self.args.min_group_std
            self.means.add("dropped_groups", float((rollout.std <= min_std).sum()), len(rollout))
            anywhere = self.any_process if self.synced else bool
            rollout = replace_flat_groups(
                rollout, min_std, self.args.max_resample_times, self._roll_out_others, try_again=anywhere
            )
        observe_rollout(self.means, rollout, self.reward_names, self.weights)
        with self.clock.timed("reward"):
            whole = [self.template.prefilled + text for text in rollout.texts]
            columns = reward_columns(rollout.items, rollout.group_size, rollout.completions, whole, self.state)
            observe_sums(self.means, reward_metrics(self.rewards, whole, columns))
        starts = np.cumsum([0] + [len(batch) for batch in batches])
        return [rollout.select(range(start, stop)) for start, stop in itertools.pairwise(starts.tolist())]

    def _roll_out(self, items: list[PromptItem], attempt: int) -> Rollout:
        """Sample a group of completions of each prompt and score them."""
        size, device = self.args.num_generations, self.args.device
        with self.clock.timed("rollout"):
            pictured = prompts = collate_prompts([item.prompt for item in items], self.sampling.pad_token_id, device)
            if self.share_embeddings:
                embeds = prompt_embeddings(self.model, prompts.input_ids, prompts.image_inputs())
                prompts = prompts.with_embeds(embeds)
            uniforms = self._uniforms(items, attempt)
            completions = self._generate(prompts if self.paths.shared else pictured, size, self.sampling, uniforms)
            tokens = [self.template.decode_tokens(ids) for ids in completions.token_lists()]
            texts = ["".join(pieces) for pieces in tokens]
        with self.clock.timed("reward"):
            whole = [self.template.prefilled + text for text in texts]
            columns = reward_columns(items, size, completions, whole, self.state)
            rewards = reward_matrix(self.rewards, whole, columns)
            rewards = torch.as_tensor(rewards, dtype=torch.float32, device=device)
            scaled = self.args.scale_rewards != "none"
            advantages, std = group_advantages(combine_rewards(rewards, self.weights.to(device)), size, scaled)
        in_loss = completions.finished if self.args.overlong_filter else torch.ones_like(completions.finished)
        return Rollout(items, prompts, completions, texts, tokens, rewards, advantages, std, in_loss)

    def _generate(
        self, prompts: PromptBatch, group_size: int, sampling: Sampling, uniforms: Tensor | None = None
    ) -> Completions:
        """Sample by the paths that the model takes."""
        paths = {"shared": self.paths.shared, "compiled": self.paths.compiled}
        return generate(self.model, prompts, group_size, sampling, uniforms, synced=self.synced, **paths)

    def _uniforms(self, items: list[PromptItem], attempt: int) -> Tensor:
        """The random numbers of a rollout, a function of seed, step, attempt and prompt in whichever process."""
        key = (self.args.seed, self.state.global_step, attempt)
        shape = (self.args.num_generations, self.args.max_completion_length)
        return torch.from_numpy(np.concatenate([prompt_uniforms((*key, item.index), *shape) for item in items]))

    def _roll_out_others(self, count: int, taken: set[int], attempt: int) -> Rollout:
        """Roll out ``count`` prompts outside ``taken``, other ones in every process."""
        key = (self.args.seed, self.state.global_step, attempt, self.args.process_index)
        indexes = other_prompts(len(self.train_dataset), count, taken, key)
        return self._roll_out(self.train_dataset.items(indexes), attempt)

    @torch.no_grad()
    def _compare(self, rollout: Rollout) -> MicroBatch:
        """Score ``rollout`` under the reference, and under the sampling policy if it will be used more than once."""
        reference_logps = old_logps = None
        with self.clock.timed(UPDATE):
            if self.reference is not None:
                with self.reference.standing_in(self.model) as model:
                    reference_logps = self._score(model, rollout).logps
            if self.args.num_iterations > 1:
                old_logps = self._score(self.model, rollout).logps
        return MicroBatch(rollout, reference_logps, old_logps)

    def _score(self, model: nn.Module, rollout: Rollout, with_entropy: bool = False) -> LogProbs:
        return completion_logprobs(
            model,
            rollout.prompts,
            rollout.completions,
            temperature=self.args.temperature,
            packed=self.paths.packed,
            with_entropy=with_entropy,
        )

    @torch.no_grad()
    def observe_validation(self, items: list[PromptItem], means: Means) -> None:
        """Observe the rewards of one greedy completion per prompt."""
        prompts = collate_prompts([item.prompt for item in items], self.sampling.pad_token_id, self.args.device)
        completions = self._generate(prompts, 1, replace(self.sampling, temperature=0))
        texts = [self.template.prefilled + self.template.decode(ids) for ids in completions.token_lists()]
        columns = reward_columns(items, 1, completions, texts, self.state)
        rewards = torch.as_tensor(reward_matrix(self.rewards, texts, columns))
        observe_rewards(means, rewards, self.reward_names, self.weights)
        means.add("completion_length", float(completions.lengths.sum()), len(completions))

    # -- update --------------------------------------------------------------------------------------------------

    @staged("forward")
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Sum of this micro-batch's token losses over the tokens of the global batch.

        Data-parallel training averages gradients over processes, hence the factor world_size.
        """
        args, batch = self.args, inputs["batch"]
        weights = {"epsilon": args.epsilon, "epsilon_high": args.epsilon_high, "beta": args.beta}
        if self.passes is None:
            scores = self._score(model, batch.rollout, with_entropy=True)
            total, figures = policy_loss(scores, LossTerms.of(batch), **weights)
        else:
            total, figures = sliced_policy_loss(model, batch, self.passes, temperature=args.temperature, **weights)
        self._last = batch.rollout, figures
        loss = total / num_items_in_batch.clamp(min=1) * self.args.world_size
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
                check_sampled(figures.logps, figures.observed["entropy"], rollout.completions.mask)
            observe_tokens(self.means, figures)
            if self.recorder is not None:
                self.recorder.add(self.state.global_step + 1, rollout, figures.logps)
        return sum(losses)

    def describe_batch(self, inputs: dict[str, Any]) -> str:
        """The rows and tokens of a micro-batch and the flags that make it smaller."""
        return describe_rollout(inputs["batch"].rollout)

    def evidence(self) -> str:
        """Write the groups of the last micro-batch, whose loss or gradient is not finite, beside completions.jsonl."""
        step, (rollout, figures) = self.state.global_step + 1, self._last
        path = Path(self.args.output_dir) / f"not_finite_step{step}_process{self.args.process_index}.jsonl"
        rows = completion_rows(step, rollout, self.reward_names, figures.logps)
        write_json_lines(path, [plain(row) for row in rows])
        return f", its groups are in {path}"

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log the means of the steps since the last entry along with the Trainer's own figures."""
        if "loss" in logs:
            logs.update(self.means.pop(self.gather_rows))
        super().log(logs, *args, **kwargs)

"""Group relative policy optimisation of a vision-language policy.

One optimizer step: draw prompts; encode each once; sample G completions of each in one decoding batch; score them with
the rewards; turn rewards into advantages within each group; then, micro-batch by micro-batch, one packed forward and
backward for the clipped loss plus KL to the reference. Formulas and their sources are in loss.py.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from swift.engine.batch import collate_prompts
from swift.engine.logprobs import completion_logprobs
from swift.engine.probe import Paths, choose_paths
from swift.engine.sampling import Sampling, generate, prompt_uniforms
from swift.llm.dataset import Record
from swift.llm.policy import Policy, embeds_prompts_frozen, prompt_embeddings
from swift.llm.template.protocol import Template
from swift.plugin.loader import reward_matrix as score_rewards
from swift.trainers.data import PromptDataset, PromptItem, example_prompts
from swift.trainers.metrics import Means
from swift.trainers.policy_trainer import PolicyTrainer
from swift.trainers.rlhf_trainer.completions_log import CompletionsLog, completion_rows
from swift.trainers.rlhf_trainer.loss import clipped_surrogate, combine_rewards, group_advantages, k3_kl
from swift.trainers.rlhf_trainer.reference import Snapshot
from swift.trainers.rlhf_trainer.rollout import Rollout, reward_columns
from swift.utils.errors import UserError
from swift.utils.logger import get_logger
from swift.utils.run_folder import finished_step

logger = get_logger()


@dataclass(frozen=True)
class MicroBatch:
    """A rollout with what the loss compares the policy against."""

    rollout: Rollout
    reference_logps: Tensor | None  # [N, C]; None when beta is 0
    old_logps: Tensor | None  # [N, C]; None while each rollout is used once: the policy is its own old policy


class GRPOTrainer(PolicyTrainer):
    """GRPO on `transformers.Trainer`.

    ``reward_funcs`` are (name, reward) pairs; ``ref_model`` is a second model to serve as reference, None for a
    snapshot of the trainable tensors taken when training begins. What is trainable is read when training begins, so a
    wrapper around ``__init__`` may still change it.
    """

    def __init__(
        self,
        model: nn.Module | None = None,
        ref_model: nn.Module | None = None,
        *,
        args,
        train_dataset: Sequence[Record],
        policy: Policy,
        template: Template,
        reward_funcs: Sequence[tuple[str, Any]],
        eval_dataset: Sequence[Record] | None = None,
        **kwargs: Any,
    ) -> None:
        self.template = template
        self.rewards = list(reward_funcs)
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
        self.sampling = Sampling(
            max_new_tokens=args.max_completion_length,
            stop_token_ids=tuple(template.stop_token_ids),
            pad_token_id=template.pad_token_id,
            temperature=args.temperature,
            top_k=args.top_k,
            top_p=args.top_p,
            banned_token_ids=tuple(template.banned_token_ids),
        )
        if args.top_k or args.top_p < 1:
            logger.warning("top_k/top_p cut the sampling distribution; log-probabilities are of the whole distribution")
        self.completions_log = CompletionsLog(Path(args.output_dir) / "completions.jsonl")
        self.means = Means()
        self.reference: Snapshot | None = None
        self.paths = Paths(packed=False, shared=False)
        self._micro_batches: list[MicroBatch] = []
        self._rows: list[dict[str, Any]] = []
        self._update_started: float | None = None

    def train(self, resume_from_checkpoint: str | None = None, **kwargs: Any):
        """Train; the reference is the policy as it is now, before a checkpoint is resumed."""
        if self.args.beta:
            self._choose_reference()
        self.paths = choose_paths(self.model, self.template, example_prompts(self.train_dataset))
        self.share_embeddings = embeds_prompts_frozen(self.model)
        logger.info("image features: %s", "computed once a step" if self.share_embeddings else "in every pass anew")
        if self.args.should_save:
            self.completions_log.truncate(finished_step(resume_from_checkpoint) if resume_from_checkpoint else 0)
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def _choose_reference(self) -> None:
        if any(hasattr(parameter, "ds_id") for parameter in self.model.parameters()):
            raise UserError("--deepspeed zero3 splits the tensors that the reference copies; use zero2, or --beta 0")
        if self.ref_model is None:
            self.reference = Snapshot.of(self.model)
        else:
            self.reference = Snapshot.of_other(self.model, self.ref_model)
        if self.reference is not None:
            self.ref_model = None
            logger.info("reference: a snapshot of the trainable tensors, %.1f MB", self.reference.nbytes() / 1e6)
            return
        self.ref_model.requires_grad_(False).eval().to(self.args.device)
        size = sum(parameter.numel() * parameter.element_size() for parameter in self.ref_model.parameters())
        logger.warning("reference: a second model, %.1f MB; it differs in more than what trains", size / 1e6)

    # -- sampling ------------------------------------------------------------------------------------------------

    def get_batch_samples(
        self, epoch_iterator: Iterator[list[PromptItem]], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, MicroBatch]], Tensor | None]:
        """All micro-batches of one optimizer step, sampled and scored, and the completion tokens of the global batch.

        With num_iterations above 1 the same micro-batches come back that many times.
        """
        self._note_update()
        batches = self.take_prompts(epoch_iterator, num_batches)
        if not batches:
            return [], None
        if self.state.global_step % self.args.num_iterations == 0 or not self._micro_batches:
            self.model.eval()
            self._micro_batches = [self._compare(rollout) for rollout in self._sample(batches)]
        tokens = sum(batch.rollout.loss_mask.sum() for batch in self._micro_batches)
        return [{"batch": batch} for batch in self._micro_batches], self.all_sum(tokens)

    def _sample(self, batches: list[list[PromptItem]]) -> list[Rollout]:
        """Roll out every micro-batch of the step in one go and cut the result up again; groups without spread are
        replaced when dynamic sampling is on."""
        rollout = self._roll_out([item for batch in batches for item in batch], attempt=0)
        if self.args.dynamic_sample:
            rollout = self._replace_flat_groups(rollout)
        self._observe_rollout(rollout)
        starts = np.cumsum([0] + [len(batch) for batch in batches])
        return [rollout.select(range(start, stop)) for start, stop in itertools.pairwise(starts.tolist())]

    def _roll_out(self, items: list[PromptItem], attempt: int) -> Rollout:
        started = time.perf_counter()
        size, device = self.args.num_generations, self.args.device
        prompts = collate_prompts([item.prompt for item in items], self.sampling.pad_token_id, device)
        if self.share_embeddings:
            embeds = prompt_embeddings(self.model, prompts.input_ids, prompts.images)
            prompts = prompts.with_embeds(embeds)
        completions = generate(
            self.model, prompts, size, self.sampling, self._uniforms(items, attempt), shared=self.paths.shared
        )
        tokens = [self.template.decode_tokens(ids) for ids in completions.token_lists()]
        texts = ["".join(pieces) for pieces in tokens]
        sampled = time.perf_counter()
        rewards = score_rewards(self.rewards, texts, reward_columns(items, size, completions))
        rewards = torch.as_tensor(rewards, dtype=torch.float32, device=device)
        advantages, std = group_advantages(combine_rewards(rewards, self.weights.to(device)), size)
        self.means.add("seconds/rollout", sampled - started, 0)
        self.means.add("seconds/reward", time.perf_counter() - sampled, 0)
        kept = completions.finished if self.args.overlong_filter else torch.ones_like(completions.finished)
        return Rollout(items, prompts, completions, texts, tokens, rewards, advantages, std, kept)

    def _uniforms(self, items: list[PromptItem], attempt: int) -> Tensor:
        """The random numbers of a rollout: a function of seed, step, attempt and prompt, whoever samples it."""
        key = (self.args.seed, self.state.global_step, attempt)
        shape = (self.args.num_generations, self.args.max_completion_length)
        return torch.from_numpy(np.concatenate([prompt_uniforms((*key, item.index), *shape) for item in items]))

    def _replace_flat_groups(self, rollout: Rollout) -> Rollout:
        """Replace groups whose reward spread is at or below min_group_std by groups of other prompts, in up to
        max_resample_times attempts; those still flat do not count in the loss."""
        taken = {item.index for item in rollout.items}
        flat = (rollout.std <= self.args.min_group_std).nonzero().flatten().tolist()
        self.means.add("dropped_groups", len(flat), 0)
        for attempt in range(1, self.args.max_resample_times + 1):
            if not flat:
                break
            fresh = self._roll_out(self._other_prompts(len(flat), taken, attempt), attempt)
            taken |= {item.index for item in fresh.items}
            good = (fresh.std > self.args.min_group_std).nonzero().flatten().tolist()
            order = list(range(len(rollout)))
            for old, new in zip(flat, good, strict=False):
                order[old] = len(rollout) + new
            rollout = rollout.concat(fresh).select(order)
            flat = flat[len(good) :]
        kept = rollout.kept.clone()
        kept.view(-1, self.args.num_generations)[flat] = False
        return replace(rollout, kept=kept)

    def _other_prompts(self, count: int, taken: set[int], attempt: int) -> list[PromptItem]:
        """Prompts outside ``taken``, drawn from (seed, step, attempt, process): nothing to save in a checkpoint."""
        key = (self.args.seed, self.state.global_step, attempt, self.args.process_index)
        order = np.random.default_rng(key).permutation(len(self.train_dataset)).tolist()
        fresh = [index for index in order if index not in taken] or order
        return self.train_dataset.items(fresh[:count])

    @torch.no_grad()
    def _compare(self, rollout: Rollout) -> MicroBatch:
        """Reference log-probabilities, and the sampling policy's when the rollout will be used more than once."""
        started = time.perf_counter()
        reference = old = None
        if self.args.beta:
            if self.reference is None:
                reference = self._score(self.ref_model, rollout).logps
            else:
                with self.reference.swapped_into(self.model):
                    reference = self._score(self.model, rollout).logps
        if self.args.num_iterations > 1:
            old = self._score(self.model, rollout).logps
        self.means.add("seconds/update", time.perf_counter() - started, 0)
        return MicroBatch(rollout, reference, old)

    def _score(self, model: nn.Module, rollout: Rollout, with_entropy: bool = False):
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
        """Reward of one greedy completion per prompt."""
        prompts = collate_prompts([item.prompt for item in items], self.sampling.pad_token_id, self.args.device)
        completions = generate(self.model, prompts, 1, replace(self.sampling, temperature=0), shared=self.paths.shared)
        texts = ["".join(self.template.decode_tokens(ids)) for ids in completions.token_lists()]
        rewards = torch.as_tensor(score_rewards(self.rewards, texts, reward_columns(items, 1, completions)))
        self._observe_rewards(rewards, means)
        means.add("completion_length", float(completions.lengths.sum()), len(completions))

    # -- loss ----------------------------------------------------------------------------------------------------

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Sum of this micro-batch's token losses over the tokens of the global batch.

        Data-parallel training averages gradients over processes, hence the factor world_size.
        """
        batch: MicroBatch = inputs["batch"]
        rollout = batch.rollout
        scores = self._score(model, rollout, with_entropy=True)
        old = scores.logps.detach() if batch.old_logps is None else batch.old_logps
        token_loss, clipped = clipped_surrogate(scores.logps, old, rollout.advantages, self.args.epsilon)
        mask = rollout.loss_mask
        observed = {"clip_ratio": clipped.float(), "entropy": scores.entropy}
        if batch.reference_logps is not None:
            kl = k3_kl(scores.logps, batch.reference_logps)
            token_loss = token_loss + self.args.beta * kl
            observed["kl"] = kl.detach()
        for name, value in observed.items():
            self.means.add(name, float(torch.where(mask, value, 0).sum()), float(mask.sum()))
        self._record(rollout, scores.logps.detach())
        total = torch.where(mask, token_loss, 0).sum() / num_items_in_batch.clamp(min=1)
        return total * self.args.world_size

    # -- records -------------------------------------------------------------------------------------------------

    def _observe_rollout(self, rollout: Rollout) -> None:
        means, lengths = self.means, rollout.completions.lengths.float()
        self._observe_rewards(rollout.rewards, means)
        means.add("reward_std", float(rollout.std.sum()), len(rollout.std))
        means.add("completion_length", float(lengths.sum()), len(lengths))
        means.extreme("completion_length_min", float(lengths.min()))
        means.extreme("completion_length_max", float(lengths.max()))
        means.add("truncated", float((~rollout.completions.finished).sum()), len(lengths))
        means.add("zero_spread_groups", float((rollout.std <= 1e-6).sum()), len(rollout.std))
        for name in ("seconds/rollout", "seconds/reward", "seconds/update"):
            means.add(name, 0, 1)
        if self.args.dynamic_sample:
            means.add("dropped_groups", 0, len(rollout.std))

    def _observe_rewards(self, rewards: Tensor, means: Means) -> None:
        total = combine_rewards(rewards, self.weights.to(rewards.device))
        means.add("reward", float(total.sum()), len(total))
        for (name, _), column in zip(self.rewards, rewards.T, strict=True):
            means.add(f"rewards/{name}", float(column.nansum()), int((~column.isnan()).sum()))

    def _note_update(self) -> None:
        if self._update_started is not None:
            self.means.add("seconds/update", time.perf_counter() - self._update_started, 0)
            self._update_started = None

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        if self._update_started is None:
            self._update_started = time.perf_counter()
        loss = super().training_step(*args, **kwargs)
        if self.accelerator.sync_gradients:
            self._write_rows()
        return loss

    def _record(self, rollout: Rollout, logps: Tensor) -> None:
        if not self.args.log_completions:
            return
        names = [name for name, _ in self.rewards]
        self._rows += completion_rows(self.state.global_step + 1, rollout, names, logps)

    def _write_rows(self) -> None:
        rows, self._rows = self._rows, []
        if not self.args.log_completions:
            return
        if self.args.world_size > 1:
            gathered = [None] * self.args.world_size
            torch.distributed.all_gather_object(gathered, rows)
            rows = [row for part in gathered for row in part]
        if self.args.should_save:
            self.completions_log.append(rows)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs:
            self._note_update()
            logs.update(self.means.pop(self.gather_rows))
        super().log(logs, *args, **kwargs)

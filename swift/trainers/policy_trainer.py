"""Common base of the GRPO and SFT trainers: checkpoints of policies, and the order of prompts."""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers import PrinterCallback, ProgressCallback
from transformers.trainer_utils import rotate_checkpoints

from swift.llm.arguments import RunArguments
from swift.llm.checkpoint.checksums import checksums
from swift.llm.checkpoint.save import is_small, save_policy
from swift.llm.policy import Policy, trainable_parameters
from swift.llm.resume import set_later_aside
from swift.trainers.callbacks import EvaluateAtTheEnd, FollowEpoch, StopAfterStep
from swift.trainers.data import PromptDataset, PromptItem, PromptOrder
from swift.trainers.finite import REMEDY, check_gradient, check_loss, check_weights
from swift.trainers.master_weights import keep_in_float32
from swift.trainers.memory_plan import Load, MemoryPlan, plan_memory, processes_per_part, refuse_large_model
from swift.trainers.metrics import Means
from swift.trainers.profile.step_profile import StepProfile
from swift.trainers.progress import LogLines, ProgressBar
from swift.trainers.reference import Snapshot
from swift.trainers.repeatable import sums_in_order
from swift.trainers.sharding.trainer import ShardedTrainer
from swift.utils.distributed import is_master
from swift.utils.errors import UserError
from swift.utils.files import write_json
from swift.utils.logger import get_logger
from swift.utils.run_folder import CHECKSUMS, WRITING, begin_checkpoint, finished_step, write_best
from swift.utils.stages import staged

logger = get_logger()


class PolicyTrainer(ShardedTrainer):
    """A `transformers.Trainer` over prompts whose checkpoints are policy folders.

    ``prompts_per_device`` is the number of dataset items (prompts, or groups of them) in a micro-batch of one process.
    The prompts of ``steps_at_once`` optimizer steps are prepared together, and used ``repeats`` times, step by step.
    ``remedy`` ends messages about numbers that are not finite.
    """

    remedy = REMEDY

    def __init__(
        self,
        model: nn.Module,
        args: RunArguments,
        train_dataset: Dataset,
        policy: Policy,
        *,
        prompts_per_device: int,
        repeats: int = 1,
        steps_at_once: int = 1,
        **kwargs: Any,
    ) -> None:
        if args.ddp_find_unused_parameters is None:
            args.ddp_find_unused_parameters = not is_small(model)  # adapter and head take part in every pass
        super().__init__(model=model, args=args, train_dataset=train_dataset, data_collator=list, **kwargs)
        self.policy = policy
        self.prompts_per_device = prompts_per_device
        self.repeats, self.steps_at_once = repeats, steps_at_once
        self.model_accepts_loss_kwargs = True  # the loss is averaged over the global batch here, not by the Trainer
        self._resumed: str | None = None  # checkpoint whose random state is still to be restored
        self.compute_type: torch.dtype | None = None  # of matrix products, if the trainable weights are kept in float32
        self.facts: dict[str, Any] = {}  # about the data, for args.json
        self.card: dict[str, Any] = {}  # facts for the README.md of checkpoints
        self.stop = StopAfterStep(repeats * steps_at_once)
        self.add_callback(self.stop)
        self.add_callback(EvaluateAtTheEnd())
        self.remove_callback(ProgressCallback)
        self.remove_callback(PrinterCallback)
        self.progress = None if args.disable_tqdm or not sys.stderr.isatty() else ProgressBar()
        self.add_callback(self.progress or LogLines())

    @property
    def prompts_per_step(self) -> int:
        """Number of prompts of one optimizer step over all processes."""
        return self.prompts_per_device * self.args.gradient_accumulation_steps * self.args.world_size

    def train(self, resume_from_checkpoint: str | None = None, **kwargs: Any):
        """Train until the end or a signal. Raises UserError if no parameter is trainable."""
        if not any(parameter.requires_grad for parameter in self.model.parameters()):
            raise UserError("no parameter is trainable; choose parameters with --trainable REGEX or --train_type")
        self.keep_masters()
        if self.args.profile_steps and is_master():
            self.add_callback(StepProfile(self.args.profile_steps, self.args.output_dir, self.model.dtype))
        self._resumed = resume_from_checkpoint
        if self.args.should_save:
            done = finished_step(resume_from_checkpoint) if resume_from_checkpoint else 0
            set_later_aside(self.args.output_dir, done)
        try:
            with self.stop.watching(), sums_in_order(self.args.device):
                return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
        finally:
            if self.progress is not None:
                self.progress.close()

    def plan(self, load: Load, reference: float = 0.0) -> MemoryPlan:
        """The memory that training will take on this process; ``reference`` is the reference policy's, bytes."""
        args, engine = self.args, self.accelerator.state.deepspeed_plugin
        return plan_memory(
            self.model,
            load,
            compute=self.compute_type or self.model.dtype,
            optimizer=str(getattr(args.optim, "value", args.optim)),
            reference=reference,
            checkpointing=bool(args.gradient_checkpointing),
            split=processes_per_part(args.world_size, engine.zero_stage if engine else 0, self.is_fsdp_enabled),
            buckets=args.world_size > 1 and not self.has_engine,
        )

    def _move_model_to_device(self, model: nn.Module, device: torch.device) -> None:
        refuse_large_model(model, device)
        super()._move_model_to_device(model, device)

    def keep_masters(self) -> None:
        """Keep what trains in float32 from now on (master_weights.py). Called once training begins, since a wrapper
        around the constructor may still change what trains."""
        try:
            narrow = keep_in_float32(self.model)
        except ValueError as error:
            raise UserError(str(error)) from error
        if narrow is not None:
            self.compute_type = narrow
            trained = sum(parameter.numel() for parameter in self.model.parameters() if parameter.requires_grad)
            kind = str(narrow).removeprefix("torch.")
            logger.info("%s entries train in float32; the model computes in %s", f"{trained:,}", kind)

    @contextmanager
    def computing_weights(self) -> Iterator[None]:
        """Within the block, hold what trains in the type that the model computes in, so that decoding does not cast it
        at every token. For passes without gradients."""
        if self.compute_type is None or self.synced:
            yield
            return
        with Snapshot.of(self.model, self.compute_type).swapped_into(self.model):
            yield

    @staged("backward")
    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | None = None
    ) -> Tensor:
        """Forward and backward of a micro-batch. Raises UserError if the loss is not finite or memory runs out."""
        step = self.state.global_step + 1
        try:
            loss = super().training_step(model, inputs, num_items_in_batch)
        except torch.OutOfMemoryError as error:
            raise UserError(f"step {step}: out of memory in the update of {self.describe_batch(inputs)}") from error
        check_loss(loss, step, self.evidence, self.remedy)
        return loss

    def describe_batch(self, inputs: dict[str, Any]) -> str:
        """The size of a micro-batch and the flag that makes it smaller, for messages."""
        raise NotImplementedError

    def evidence(self) -> str:
        """Write the last micro-batch to disk, since its loss or gradient is not finite, and say where. Empty if nothing
        was written."""
        return ""

    def _get_grad_norm(self, model: nn.Module, grad_norm: Tensor | float | None = None) -> Tensor | float | None:
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        check_gradient(norm, self.state.global_step + 1, self.evidence, self.remedy)
        return norm

    def get_train_dataloader(self) -> DataLoader:
        """Build the data loader of this process over prompts in the order of `PromptOrder`."""
        args, count = self.args, len(self.train_dataset)
        seed = args.seed if args.data_seed is None else args.data_seed
        self.order = PromptOrder(
            count,
            seed,
            self.prompts_per_step * self.steps_at_once,
            self.repeats,
            shuffles=args.shuffles,
            whole_blocks=self.steps_at_once > 1,
        )
        self.add_callback(FollowEpoch(self.order))
        loader = DataLoader(
            self.train_dataset,
            batch_size=self.prompts_per_device,
            sampler=self.order,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            persistent_workers=self.args.dataloader_persistent_workers,
            drop_last=self.args.dataloader_drop_last,
        )
        return self.accelerator.prepare(loader)

    def floating_point_ops(self, inputs: Any) -> int:
        """0, since the Trainer's estimate counts neither images nor shared prompts."""
        return 0

    @staged("waiting for images")
    def take_prompts(self, epoch_iterator: Iterator[list[PromptItem]], num_batches: int) -> list[list[PromptItem]]:
        """Take the next ``num_batches`` micro-batches of prompts, or fewer at the end of an epoch.

        There are none if all steps are done, since the Trainer would make one more when a finished run is resumed. The
        images of the following step are decoded while this one computes.
        """
        if self.state.global_step >= self.state.max_steps:
            return []
        batches = []
        for _ in range(num_batches):
            batch = next(epoch_iterator, None)
            if batch is None:
                break
            batches.append(batch)
        self._load_rng_state(self._resumed)
        self._announce_next()
        return batches

    def _announce_next(self) -> None:
        """Prefetch the prompts that are prepared together next, unless data loader workers decode them.

        The data loader holds one batch in advance, so at the start of an epoch it draws one more than a step takes.
        """
        args = self.args
        if args.dataloader_num_workers == 0 and self.state.global_step + self.steps_at_once < self.state.max_steps:
            count, size = args.gradient_accumulation_steps * self.steps_at_once + 1, self.prompts_per_device
            self.train_dataset.prefetch(self.order.ahead(count, size, args.process_index, args.world_size))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Restore the random generators once per resume.

        The Trainer calls this after get_batch_samples, which here has already sampled and scored the step. So
        take_prompts calls it first.
        """
        if self._resumed is not None:
            self._resumed = None
            super()._load_rng_state(checkpoint)

    def evaluate(
        self, eval_dataset: PromptDataset | None = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Compute and log figures over the validation prompts, which are divided among the processes."""
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        means = Means()
        self.model.eval()
        with self.whole_policy(), self.computing_weights():
            self._observe_own(dataset, means)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in self.pop_means(means).items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _observe_own(self, dataset: PromptDataset, means: Means) -> None:
        """Observe the validation prompts of this process, a batch at a time. Where processes must keep in step, one
        without prompts left repeats the first one, which does not count."""
        own, size = range(self.args.process_index, len(dataset), self.args.world_size), self.args.eval_batch_size
        largest = math.ceil(len(dataset) / self.args.world_size) if self.synced else len(own)
        for start in range(0, largest, size):
            items = dataset.items((batch := own[start : start + size]) or [0])
            dataset.prefetch(own[start + size : start + 2 * size])
            self.observe_validation(items, means if batch else Means())

    def observe_validation(self, items: list[PromptItem], means: Means) -> None:
        """Add the figures of a batch of validation prompts to ``means``."""
        raise NotImplementedError

    def pop_means(self, means: Means) -> dict[str, float]:
        """The means over all processes, which call it together and may have observed different ones. Resets them."""
        if self.args.world_size > 1:
            means.unite(gather_object([means.names]))
        return means.pop(self.gather_rows)

    def gather_rows(self, row: Tensor) -> Tensor:
        """The rows [1, K] of all processes as one table [world_size, K] on the CPU."""
        return self.accelerator.gather(row.to(self.args.device)).cpu()

    def all_sum(self, value: Tensor) -> Tensor:
        """Sum of a tensor over all processes."""
        return self.accelerator.reduce(value, reduction="sum")

    def all_values(self, values: Tensor) -> Tensor:
        """The numbers [n] of all processes as one tensor. Processes may have different counts n; none is infinite."""
        padded = self.accelerator.pad_across_processes(values, pad_index=-math.inf)
        joined = self.accelerator.gather(padded)
        return joined[joined.isfinite()]

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        if self.args.should_save:
            trained = trainable_parameters(self.model) if state_dict is None else state_dict
            check_weights(trained, f"step {self.state.global_step}: no checkpoint is written", self.remedy)
            card = {**self.card, "step": self.state.global_step}
            folder = Path(output_dir or self.args.output_dir)
            save_policy(self.policy, folder, state_dict, full=self.args.save_full, card=card)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write a checkpoint, which is complete once it has checksums and its mark is gone, and remove the oldest ones.
        A failure leaves nothing of it. The Trainer would remove those that the clock calls old."""
        args, folder = self.args, Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        limit, args.save_total_limit = args.save_total_limit, None
        try:
            if args.should_save:
                begin_checkpoint(folder)
            self.accelerator.wait_for_everyone()
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if args.should_save:
                write_json(folder / CHECKSUMS, checksums(folder))
                (folder / WRITING).unlink()
        except BaseException:
            if args.should_save:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        finally:
            args.save_total_limit = limit
        if args.should_save:
            best = self.state.best_model_checkpoint
            rotate_checkpoints(args.output_dir, limit, best)
            if args.load_best_model_at_end and best is not None:
                write_best(args.output_dir, best, self.state.best_metric)

    def _load_best_model(self) -> None:
        """Take the weights of the best checkpoint, as `--load_best_model_at_end` asks."""
        best = Path(self.state.best_model_checkpoint)
        logger.info("best checkpoint: %s (%s %.4g)", best, self.args.metric_for_best_model, self.state.best_metric)
        self._load_from_checkpoint(str(best))

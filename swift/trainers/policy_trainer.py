"""What GRPO and SFT share: checkpoints of policies, the order of prompts, and stopping without losing work."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, get_worker_info
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback

from swift.llm.checkpoint.save import is_small, load_weights, save_policy
from swift.llm.policy import Policy
from swift.trainers.data import PromptDataset, PromptItem, PromptOrder
from swift.trainers.master_weights import keep_in_float32
from swift.trainers.metrics import Means
from swift.trainers.progress import LogLines, ProgressBar
from swift.trainers.reference import Snapshot
from swift.utils.distributed import is_master
from swift.utils.errors import UserError
from swift.utils.logger import get_logger

logger = get_logger()


class StopAfterStep(TrainerCallback):
    """On SIGINT or SIGTERM in any process: finish the step, write a checkpoint, stop. A second signal stops at once.

    A stop waits for a step that ``every`` divides: a checkpoint cannot hold half-used rollouts.
    """

    def __init__(self, every: int = 1) -> None:
        self.every = every
        self.signal: int | None = None
        self.stopped = False

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Listen for the signals within the block (main thread only: Python allows no other)."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = {number: signal.signal(number, self._request) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _request(self, number: int, _frame: Any) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number
        if is_master() and get_worker_info() is None:  # the terminal signals every process, data loaders' too
            logger.warning("stopping after this step, with a checkpoint; once more to stop at once")

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step % self.every == 0 and self._asked(args):
            self.stopped = control.should_save = control.should_training_stop = True
        return control

    def _asked(self, args) -> bool:
        """Whether any process got a signal: all must leave the loop at the same step."""
        if args.world_size == 1:
            return self.signal is not None
        asked = torch.tensor(int(self.signal is not None), device=args.device)
        torch.distributed.all_reduce(asked, op=torch.distributed.ReduceOp.MAX)
        return bool(asked)


class FollowEpoch(TrainerCallback):
    """Tells the order of prompts which epoch begins."""

    def __init__(self, order: PromptOrder) -> None:
        self.order = order

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.order.set_epoch(int(state.epoch or 0))


class PolicyTrainer(Trainer):
    """A `transformers.Trainer` over prompts whose checkpoints are policy folders.

    ``prompts_per_device`` is the number of dataset items in one micro-batch of one process: prompts, or groups of them.
    """

    def __init__(
        self,
        model: nn.Module,
        args,
        train_dataset: Dataset,
        policy: Policy,
        *,
        prompts_per_device: int,
        repeats: int = 1,
        **kwargs: Any,
    ) -> None:
        if args.ddp_find_unused_parameters is None:
            # The vision adapter and the head take part in every pass, audio and image parameters do not.
            args.ddp_find_unused_parameters = not is_small(model)
        super().__init__(model=model, args=args, train_dataset=train_dataset, data_collator=list, **kwargs)
        self.policy = policy
        self.prompts_per_device = prompts_per_device
        self.repeats = repeats
        self.model_accepts_loss_kwargs = True  # the loss is averaged over the global batch here, not by the Trainer
        self._resumed: str | None = None
        self.compute_type: torch.dtype | None = None  # of the matrix products, where what trains is kept in float32
        self.card: dict[str, Any] = {}  # what checkpoints' README.md tells
        self.stop = StopAfterStep(repeats)
        self.add_callback(self.stop)
        self.remove_callback(ProgressCallback)
        self.remove_callback(PrinterCallback)
        self.progress = None if args.disable_tqdm else ProgressBar()
        self.add_callback(self.progress or LogLines())

    @property
    def prompts_per_step(self) -> int:
        """Prompts of one optimizer step over all processes."""
        return self.prompts_per_device * self.args.gradient_accumulation_steps * self.args.world_size

    def train(self, resume_from_checkpoint: str | None = None, **kwargs: Any):
        if not any(parameter.requires_grad for parameter in self.model.parameters()):
            raise UserError("no parameter is trainable; set --trainable REGEX, or --train_type to what should train")
        self.keep_masters()
        self._resumed = resume_from_checkpoint
        try:
            with self.stop.watching():
                return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
        finally:
            if self.progress is not None:
                self.progress.close()

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
        if self.compute_type is None:
            yield
            return
        with Snapshot.of(self.model, self.compute_type).swapped_into(self.model):
            yield

    def get_train_dataloader(self) -> DataLoader:
        self.order = PromptOrder(len(self.train_dataset), self.args.seed, self.prompts_per_step, self.repeats)
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
        """Not estimated: the Trainer's formula counts neither images nor shared prompts."""
        return 0

    def take_prompts(self, epoch_iterator: Iterator[list[PromptItem]], num_batches: int) -> list[list[PromptItem]]:
        """The next ``num_batches`` micro-batches of prompts, fewer at the end of an epoch; none where a run is resumed
        that has made all its steps, since the Trainer would make one more. The images of those that follow are decoded
        while the step computes."""
        if self.state.global_step >= self.state.max_steps:
            return []
        batches = []
        for _ in range(num_batches):
            batch = next(epoch_iterator, None)
            if batch is None:
                break
            batches.append(batch)
        self._load_rng_state(self._resumed)
        self._announce_next_step()
        return batches

    def _announce_next_step(self) -> None:
        """The loader holds one batch more than the step takes, so at the start of an epoch it draws one more. With
        workers of its own it decodes there."""
        args = self.args
        if args.dataloader_num_workers == 0 and self.state.global_step + 1 < self.state.max_steps:
            count, size = args.gradient_accumulation_steps + 1, self.prompts_per_device
            self.train_dataset.prefetch(self.order.ahead(count, size, args.process_index, args.world_size))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Restore the random generators, once a resume. The Trainer does it after get_batch_samples, which here has
        sampled and scored the step by then: take_prompts comes before it."""
        if self._resumed is not None:
            self._resumed = None
            super()._load_rng_state(checkpoint)

    def evaluate(
        self, eval_dataset: PromptDataset | None = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Figures over the validation prompts, every prompt once however many processes share them."""
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        means = Means()
        self.model.eval()
        with self.computing_weights():
            self._observe_own(dataset, means)
        # Process 0 has an item if any has; one without items has seen no figure to name.
        means.expect(broadcast_object_list([means.names])[0])
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in means.pop(self.gather_rows).items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _observe_own(self, dataset: PromptDataset, means: Means) -> None:
        """Observe the validation prompts of this process, a batch at a time."""
        own, size = range(self.args.process_index, len(dataset), self.args.world_size), self.args.eval_batch_size
        for start in range(0, len(own), size):
            items = dataset.items(own[start : start + size])
            dataset.prefetch(own[start + size : start + 2 * size])
            self.observe_validation(items, means)

    def observe_validation(self, items: list[PromptItem], means: Means) -> None:
        """Add the figures of a batch of validation prompts to ``means``."""
        raise NotImplementedError

    def gather_rows(self, row: Tensor) -> Tensor:
        """A row [1, K] of every process as one table [world, K] on the CPU."""
        return self.accelerator.gather(row.to(self.args.device)).cpu()

    def all_sum(self, value: Tensor) -> Tensor:
        """Sum of a tensor over all processes."""
        return self.accelerator.reduce(value, reduction="sum")

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        if self.args.should_save:
            card = {**self.card, "step": self.state.global_step}
            folder = Path(output_dir or self.args.output_dir)
            save_policy(self.policy, folder, state_dict, full=self.args.save_full, card=card)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        load_weights(self.model if model is None else model, Path(resume_from_checkpoint))

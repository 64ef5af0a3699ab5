"""A `transformers.Trainer` whose checkpoints, rollouts and resumed runs are the same under every engine.

A single process and DistributedDataParallel need nothing of this. Under DeepSpeed and FSDP2 the engine wraps or divides
the model when training begins, so what must see the wrapped model waits until then (``begin``), and checkpoints are
gathered into the files that a single process writes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Trainer
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME

from swift.llm.checkpoint.save import is_small, load_weights, saved_names, stored_weights
from swift.llm.checkpoint.stored_tensors import read_tensor
from swift.llm.deepspeed_configs import check_precision
from swift.trainers.sharding.engines import force_fsdp, gathered_units, mark_zero3_leaves
from swift.trainers.sharding.gathering import fits_whole, gathered, whole_bytes
from swift.trainers.sharding.optimizer_state import load_whole_state, optimizer_groups, scheduler_state, whole_state
from swift.trainers.sharding.parameters import is_sharded, local_part, whole_shape, whole_values, write_whole
from swift.utils.errors import UserError
from swift.utils.files import replacing
from swift.utils.lines import one_line
from swift.utils.logger import get_logger
from swift.utils.plain_pickles import read_plain_pickle

logger = get_logger()


class ShardedTrainer(Trainer):
    """A Trainer that knows DeepSpeed ZeRO-1 to 3 and FSDP2."""

    gathers_whole = True  # a rollout of a divided model gathers all weights once, not layer by layer

    @property
    def has_engine(self) -> bool:
        """True under DeepSpeed and FSDP2."""
        return self.is_deepspeed_enabled or self.is_fsdp_enabled

    @property
    def synced(self) -> bool:
        """True if all processes must call the model equally often outside of the update too."""
        return not self.gathers_whole

    def create_accelerator_and_postprocess(self) -> None:
        """Make the accelerator, with FSDP2 on CPUs too, and tell the engine what to gather as a whole."""
        super().create_accelerator_and_postprocess()
        if self.is_deepspeed_enabled:
            check_precision(self.accelerator.state.deepspeed_plugin.hf_ds_config)
        settings = self.args.fsdp_plugin_args
        if settings is None and os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true":  # accelerate launch
            settings = {}
        if settings is not None:
            force_fsdp(self.accelerator, settings)
            self.is_fsdp_enabled = True
            plugin = self.accelerator.state.fsdp_plugin
            if plugin.fsdp_version != 2:
                raise UserError("FSDP1 is not supported; set fsdp_version (or fsdp_config's version) to 2")

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Make the optimizer and remember which parameters it has."""
        optimizer = super().create_optimizer() if model is None else super().create_optimizer(model)
        self._groups = optimizer_groups(self.model, optimizer)
        return optimizer

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: str | None) -> Any:
        if self.is_deepspeed_enabled:
            mark_zero3_leaves(self.model)
        if self.is_fsdp_enabled:
            plugin = self.accelerator.state.fsdp_plugin
            own = plugin.transformer_cls_names_to_wrap or []
            plugin.transformer_cls_names_to_wrap = sorted({*own, *gathered_units(self.model)})
        resumed = None if self.has_engine else resume_from_checkpoint
        prepared = super()._prepare_for_training(max_steps, train_dataloader, resumed)
        self._choose_gathering()
        self.begin()
        if self.has_engine and resume_from_checkpoint is not None:
            self._restore(Path(resume_from_checkpoint))
        return prepared

    def begin(self) -> None:
        """Called once the model is wrapped and before a checkpoint is resumed."""

    def rollout_bytes(self) -> float:
        """Bytes that a rollout takes beside the weights."""
        return 0.0

    def any_process(self, value: bool) -> bool:
        """True in all processes if ``value`` is true in any. All processes must call it."""
        return bool(self.accelerator.reduce(torch.tensor(int(value), device=self.args.device)))

    def _choose_gathering(self) -> None:
        if not is_sharded(self.model):
            return
        held = sum(local_part(parameter).numel() for parameter in self.model.parameters())
        everything = sum(whole_shape(parameter).numel() for parameter in self.model.parameters())
        chosen = self.args.rollout_gather
        if chosen == "auto":
            short = not fits_whole(self.model, self.rollout_bytes(), self.args.device)
            self.gathers_whole = not self.any_process(short)
        else:
            self.gathers_whole = chosen == "once"
        logger.info(
            "this process holds %s of %s parameters; rollouts gather %s",
            f"{held:,}",
            f"{everything:,}",
            f"all weights once ({whole_bytes(self.model) / 1e9:.3f} GB)" if self.gathers_whole else "layer by layer",
        )

    @contextmanager
    def whole_policy(self) -> Iterator[None]:
        """Within the block the policy can be called as if it were not divided. All processes enter together."""
        with gathered(self.model_wrapped, whole=self.gathers_whole):
            yield

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the policy folder; under an engine, gather its tensors first. All processes call it."""
        if not self.has_engine:
            super().save_model(output_dir, _internal_call)
            return
        small = is_small(self.model) and not self.args.save_full
        named = self.model.state_dict(keep_vars=True)
        names = saved_names(named) if small else list(named)
        state = whole_values(((name, named[name]) for name in names), keep=self.args.should_save)
        self._save(output_dir, state_dict=state)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.has_engine:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        state = whole_state(self.model, self.optimizer, self._groups, keep=self.args.should_save)
        if self.args.should_save:
            scheduler = scheduler_state(self.lr_scheduler.state_dict(), len(self._groups))
            for name, value in ((OPTIMIZER_NAME, state), (SCHEDULER_NAME, scheduler)):
                with replacing(Path(output_dir) / name) as temporary:
                    torch.save(value, temporary)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        try:
            super()._load_optimizer_and_scheduler(checkpoint)
        except (ValueError, KeyError, RuntimeError) as error:
            raise UserError(
                f"{checkpoint}: {OPTIMIZER_NAME} is of other parameters ({one_line(error)}); resume with the flags "
                "that the run was started with"
            ) from error

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        folder = Path(resume_from_checkpoint)
        if not self.has_engine:
            load_weights(self.model if model is None else model, folder)
            return
        stored = stored_weights(self.model, folder)
        write_whole(self.model, ((name, read_tensor(tensor)) for name, tensor in stored.items()))

    def _restore(self, folder: Path) -> None:
        """Take up weights, optimizer and scheduler of a checkpoint under an engine."""
        self._load_from_checkpoint(str(folder))
        optimizer, scheduler = (
            read_plain_pickle(folder / name, "resume from another checkpoint", mapped=True)
            for name in (OPTIMIZER_NAME, SCHEDULER_NAME)
        )
        load_whole_state(self.model, self.optimizer, self._groups, optimizer)
        self.lr_scheduler.load_state_dict(scheduler_state(scheduler, len(self.lr_scheduler.base_lrs)))

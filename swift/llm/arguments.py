"""The flags of ``python -m swift.cli.rlhf`` and ``swift.cli.sft``: ms-swift's names on ``TrainingArguments``.

Every value is checked when its dataclass is built, so a mistake is reported before data is read or a model is loaded.
Defaults are those of the published sweep. For GRPO, ``per_device_train_batch_size`` counts completions.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from transformers import SchedulerType, TrainingArguments
from transformers.trainer_utils import IntervalStrategy

from swift.llm.deepspeed_configs import check_mismatches, check_precision, deepspeed_config, skip_shared_memory_kernel
from swift.llm.estimator_flags import EstimatorFlags
from swift.llm.ms_swift_arguments import (
    BuiltInRewardFlags,
    GroupFlags,
    LoraFlags,
    OrderFlags,
    PromptFlags,
    RecordFlags,
    adapt_adapters,
    adapt_batch,
    hold_out_as_ms_swift,
    installed_trackers,
    json_object,
    warn_of_frozen_parts,
)
from swift.llm.ms_swift_arguments import flag as _flag
from swift.llm.ms_swift_arguments import require as _require
from swift.llm.ms_swift_flags import FOREIGN_FLAGS
from swift.llm.optimizers import check_optimizer
from swift.llm.resume import resume_folder
from swift.utils.distributed import check_world_size, is_master, join_gloo_group, runs_on_cpu
from swift.utils.errors import UserError
from swift.utils.flag_limits import check_flags
from swift.utils.flags import FlagParser
from swift.utils.output_folders import check_output_folder


@dataclass
class ModelArguments(LoraFlags):
    """The policy, its reference, and the parameters that train."""

    model: str = field(metadata={"help": "folder of the checkpoint to train"})
    ref_model: str | None = _flag("folder of the reference policy; default: the model as it starts")
    base_model: str | None = _flag("full checkpoint below an adapter folder; default: the one the adapter names")
    model_kwargs: dict[str, Any] | str | None = field(
        default=None, metadata={"help": 'JSON, as ms-swift takes it; only {"device_map": null} is supported'}
    )
    torch_dtype: Literal["auto", "bfloat16", "float16", "float32"] = _flag(
        "type of the weights; auto: as saved", "auto"
    )
    attn_impl: Literal["auto", "flash_attn", "flash_attention_2", "flex_attention", "sdpa", "eager"] = _flag(
        "attention kernel; auto: sdpa, and FlexAttention in packed rows on a GPU", "auto"
    )
    train_type: Literal["dummy", "lora", "full"] = _flag(
        "dummy: train the adapters of the checkpoint; lora: add new ones; full: train all weights", "dummy"
    )
    trainable: str | None = _flag(
        "parameters to train in place of train_type's: a regular expression for their names, or vision-lora+head"
    )
    lora_rank: int = _flag("rank of adapters that train_type lora adds", 8)
    lora_alpha: int = _flag("scale of adapters that train_type lora adds, over the rank", 32)

    _argument_group_name = "model"

    def __post_init__(self):
        if isinstance(self.model_kwargs, str):
            self.model_kwargs = json_object("model_kwargs", self.model_kwargs)
        extra = {key: value for key, value in (self.model_kwargs or {}).items() if (key, value) != ("device_map", None)}
        _require(not extra, f'--model_kwargs {json.dumps(extra)} is not supported; only {{"device_map": null}} is')
        _require(self.lora_rank >= 1, f"--lora_rank {self.lora_rank} must be 1 or more")
        _require(self.lora_alpha >= 1, f"--lora_alpha {self.lora_alpha} must be 1 or more")
        self.check_lora()
        try:
            re.compile(self.trainable or "")
        except re.error as error:
            raise UserError(f"--trainable {self.trainable!r} is not a regular expression: {error}") from error


@dataclass
class DataArguments(RecordFlags, PromptFlags):
    """The records, and the preparation of their images."""

    dataset: list[str] = field(metadata={"help": "training files: JSON lists or JSON lines"})
    val_dataset: list[str] = field(default_factory=list, metadata={"help": "validation files"})
    split_dataset_ratio: float = _flag("share of the training records to hold out for validation", 0.0)
    image_root: str | None = _flag("folder that holds the images; default: the images folder nearest above each file")
    max_length: int | None = _flag("most tokens a prompt may have, images included; longer ones are an error")
    dynamic_hd: int | None = _flag("most crops an image may take; default: as the checkpoint was trained, else 4")
    check_images: bool = _flag("decode every image before training; false: read headers only", True)
    image_fields: list[str] = field(
        default_factory=list, metadata={"help": "fields of a record that hold images; default: the customary names"}
    )
    allow_links: bool = _flag("follow links in the image folder that lead out of it", False)
    unseen: Literal["refuse", "count"] = _flag(
        "records without an image, and fields that look like an image and are not read: refuse, or count and list",
        "refuse",
    )

    _argument_group_name = "data"

    def __post_init__(self):
        self.check_prompts()
        self.check_record_flags()
        _require(bool(self.dataset), "--dataset names no file; give at least one")
        _require(0 <= self.split_dataset_ratio < 1, f"--split_dataset_ratio {self.split_dataset_ratio} must be in 0..1")
        _require(
            not (self.val_dataset and self.split_dataset_ratio),
            "--val_dataset and --split_dataset_ratio exclude each other; give one",
        )
        _require(self.max_length is None or self.max_length >= 1, f"--max_length {self.max_length} must be 1 or more")
        _require(self.dynamic_hd is None or self.dynamic_hd >= 1, f"--dynamic_hd {self.dynamic_hd} must be 1 or more")


@dataclass
class RunArguments(OrderFlags, TrainingArguments):
    """The settings of both commands that differ from ``TrainingArguments`` or are added to them."""

    learning_rate: float = _flag("peak learning rate", 6e-5)
    num_train_epochs: float = _flag("passes over the training records", 1.0)
    warmup_ratio: float | None = _flag("share of the steps that warm up; --warmup_steps wins", 0.1)
    lr_scheduler_type: SchedulerType = field(
        default=SchedulerType.COSINE, metadata={"help": "schedule after the warm-up"}
    )
    weight_decay: float = _flag("AdamW's weight decay", 0.1)
    logging_steps: float = _flag("steps between lines of metrics", 1)
    save_total_limit: int | None = _flag("checkpoints to keep", 2)
    save_full: bool = _flag("write full models; false: adapter and head only, if nothing else trains", False)
    report_to: list[str] = field(
        default_factory=lambda: ["none"], metadata={"help": "trackers that Trainer knows, e.g. wandb"}
    )
    resume_from_checkpoint: str | None = _flag(
        "true: resume from the newest checkpoint in output_dir, if any; or a checkpoint folder", nargs="?", const="true"
    )
    resume_changed: bool = _flag("resume although flags, data or base weights changed, and note the changes", False)
    overwrite_output_dir: bool = _flag("start anew in a folder that holds another run", False)
    rollout_gather: Literal["auto", "once", "layer"] = _flag(
        "weights divided by ZeRO-3 or FSDP2 are gathered for a rollout all at once, or layer by layer at every token; "
        "auto: once if they fit",
        "auto",
    )
    profile_steps: int = _flag(
        "steps to profile: their stages go to profile.json, a trace of the last to trace.json.gz", 0
    )
    remove_unused_columns: bool = False

    _argument_group_name = "training (and every other flag of transformers.TrainingArguments)"

    def __post_init__(self):
        check_flags({field.name: getattr(self, field.name) for field in dataclasses.fields(self)})
        _require(self.profile_steps >= 0, f"--profile_steps {self.profile_steps} must be 0 or more")
        if self.eval_steps is None:
            self.eval_steps = self.save_steps
        if self.warmup_ratio is not None:
            _require(0 <= self.warmup_ratio < 1, f"--warmup_ratio {self.warmup_ratio} must be in 0..1")
            # transformers 5 reads warmup_steps below 1 as a share
            self.warmup_steps, self.warmup_ratio = self.warmup_steps or self.warmup_ratio, None
        for name in self._VALID_DICT_FIELDS:
            value = getattr(self, name, None)
            if isinstance(value, str) and value.lstrip().startswith("{"):
                setattr(self, name, json_object(name, value))
        for old, new in (
            ("gradient_checkpointing", "activation_checkpointing"),
            ("gradient_checkpointing_kwargs", "activation_checkpointing_kwargs"),
        ):
            if getattr(self, new, old) is None:  # newer transformers warn about the old name
                setattr(self, new, getattr(self, old))
        if self.deepspeed is not None:
            self.deepspeed = deepspeed_config(self.deepspeed)
        elif os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":  # accelerate launch
            skip_shared_memory_kernel()
        if isinstance(self.fsdp, str) and self.fsdp.lower() in ("true", "false"):
            self.fsdp = True if self.fsdp.lower() == "true" else None
        self.use_cpu = self.use_cpu or runs_on_cpu()
        if self.use_cpu:
            join_gloo_group(self.ddp_timeout)
        super().__post_init__()
        check_optimizer(self.optim.value)
        check_world_size(self.world_size)
        if self.deepspeed is not None:
            check_mismatches(self.hf_deepspeed_config.mismatches)
            check_precision(self.hf_deepspeed_config)
        self.report_to = installed_trackers(self.report_to)


@dataclass
class RLHFArguments(EstimatorFlags, GroupFlags, BuiltInRewardFlags, RunArguments):
    """The settings of GRPO."""

    output_dir: str = _flag("folder of the run", "output/grpo")
    save_steps: float = _flag("steps between checkpoints", 1000)
    rlhf_type: Literal["grpo"] = _flag("the algorithm", "grpo")
    external_plugins: list[str] = field(default_factory=list, metadata={"help": "Python files that register rewards"})
    reward_funcs: list[str] = field(
        default_factory=list, metadata={"help": "names of rewards, as registered in swift.plugin.orms"}
    )
    reward_weights: list[float] | None = field(
        default=None, metadata={"help": "one weight per reward; default: 1 each"}
    )
    num_generations: int = _flag("completions per prompt (G)", 8)
    max_completion_length: int = _flag("most tokens a completion may have", 256)
    temperature: float = _flag("sampling temperature, applied in scoring too", 0.9)
    top_p: float = _flag("nucleus to sample from; scoring uses the whole distribution", 1.0)
    top_k: int = _flag("most likely tokens to sample from; 0: all", 0)
    beta: float = _flag("weight of the KL term", 0.5)
    epsilon: float = _flag("clip range of the probability ratio", 0.2)
    num_iterations: int = _flag("optimizer steps per batch of rollouts", 1)
    dynamic_sample: bool = _flag("replace groups with nearly equal rewards", False)
    max_resample_times: int = _flag("most times that dynamic_sample draws again", 3)
    min_group_std: float = _flag("dynamic_sample drops groups whose rewards have at most this standard deviation", 0.06)
    overlong_filter: bool = _flag("leave truncated completions out of the loss", False)
    compile_rollout: Literal["auto", "true", "false"] = _flag("compile the decode steps; auto: on a GPU", "auto")
    log_completions: bool = _flag("write completions.jsonl", True)
    tokens_per_pass: int | None = _flag(
        "compute a long group in sections of the prompt and slices of the completions of at most so many tokens each; "
        "0: never; default: if the memory plan says that a packed row does not fit"
    )

    def __post_init__(self):
        if self.load_best_model_at_end and self.metric_for_best_model is None:
            self.metric_for_best_model, self.greater_is_better = "eval_reward", True
        self._check_rewards()
        self._check_batch()
        self._check_sampling()
        super().__post_init__()

    def _check_rewards(self) -> None:
        count, weights = len(self.reward_funcs), self.reward_weights
        _require(count > 0, "--reward_funcs names no reward; give at least one, e.g. external_r1v_acc")
        _require(
            not weights or len(weights) == count,
            f"--reward_weights has {len(weights or [])} values for {count} rewards; give one per reward",
        )
        self.reward_weights = weights or [1.0] * count

    def _check_batch(self) -> None:
        group = self.num_generations
        _require(
            group >= 2, f"--num_generations {group} must be 2 or more: a group of one has no advantage to learn from"
        )
        self.check_rollout()
        steps = self.steps_per_rollout
        adapt_batch(self)
        self.check_group(self.per_device_train_batch_size)
        if self.steps_per_generation is not None:
            self.steps_per_generation = steps * self.gradient_accumulation_steps
        _require(self.num_iterations >= 1, f"--num_iterations {self.num_iterations} must be 1 or more")
        uses = f"--num_iterations {self.num_iterations}"
        if steps > 1:
            uses += f" times the {steps} optimizer steps of --steps_per_generation"
        _require(
            self.save_steps < 1 or self.save_steps % (self.num_iterations * steps) == 0,
            f"--save_steps {self.save_steps:g} must be a multiple of {uses}: a checkpoint cannot hold half-used "
            "rollouts",
        )

    def _check_sampling(self) -> None:
        positive = ("max_completion_length", "temperature", "epsilon")
        not_negative = ("top_k", "beta", "max_resample_times", "min_group_std", "tokens_per_pass")
        for name in positive:
            _require(getattr(self, name) > 0, f"--{name} {getattr(self, name)} must be above 0")
        for name in not_negative:
            _require((getattr(self, name) or 0) >= 0, f"--{name} {getattr(self, name)} must be 0 or more")
        _require(0 < self.top_p <= 1, f"--top_p {self.top_p} must be above 0 and at most 1")
        self.check_estimator()


@dataclass
class SFTArguments(RunArguments):
    """The settings of supervised fine-tuning."""

    output_dir: str = _flag("folder of the run", "output/sft")
    questions_per_row: int = _flag(
        "most questions about the same images in one row, which holds the images once; "
        "--per_device_train_batch_size counts rows",
        1,
    )

    def __post_init__(self) -> None:
        _require(self.questions_per_row >= 1, f"--questions_per_row {self.questions_per_row} must be 1 or more")
        super().__post_init__()


def parse_rlhf_args(argv: Sequence[str] | None = None) -> tuple[ModelArguments, DataArguments, RLHFArguments]:
    """Parse the flags of ``swift.cli.rlhf``. Raises UserError for a wrong flag and for an occupied ``output_dir``."""
    return _parse(RLHFArguments, "python -m swift.cli.rlhf", "Train a policy by GRPO.", argv)


def parse_sft_args(argv: Sequence[str] | None = None) -> tuple[ModelArguments, DataArguments, SFTArguments]:
    """Parse the flags of ``swift.cli.sft``. Raises UserError as :func:`parse_rlhf_args` does."""
    return _parse(SFTArguments, "python -m swift.cli.sft", "Fine-tune a policy on solutions.", argv)


def _parse(kind: type[RunArguments], prog: str, description: str, argv: Sequence[str] | None) -> tuple:
    own = {name for base in kind.__mro__[: kind.__mro__.index(TrainingArguments)] for name in base.__annotations__}
    hidden = {field.name for field in dataclasses.fields(TrainingArguments)} - own
    parser = FlagParser(
        (ModelArguments, DataArguments, kind),
        prog=prog,
        description=description,
        hidden=hidden,
        foreign=FOREIGN_FLAGS,
    )
    argv = list(sys.argv[1:] if argv is None else argv)
    words = _with_validation(argv)
    model, data, training = parser.parse(words)
    if len(words) > len(argv) and not (data.val_dataset or data.split_dataset_ratio):
        training.eval_strategy = IntervalStrategy.NO
    hold_out_as_ms_swift(data, training)
    adapt_adapters(model)
    warn_of_frozen_parts(model)
    if is_master():
        check_output_folder(training.output_dir)
    training.resume_from_checkpoint = resume_folder(
        training.output_dir,
        training.resume_from_checkpoint,
        training.overwrite_output_dir,
        only_model=training.resume_only_model,
    )
    if training.resume_only_model and training.resume_from_checkpoint is not None:
        model.ref_model = model.ref_model or model.model
        model.model, training.resume_from_checkpoint = training.resume_from_checkpoint, None
    return model, data, training


def _with_validation(argv: Sequence[str]) -> list[str]:
    """``argv`` with ``--eval_strategy steps`` if it names validation data and no strategy, as in ms-swift: records that
    are held out are evaluated."""
    words = [word.replace("-", "_").lstrip("_").partition("=") for word in argv if word.startswith("--")]
    flags = {name: value for name, _, value in words}
    if {"val_dataset", "split_dataset_ratio"} & flags.keys() and not {"eval_strategy", "do_eval"} & flags.keys():
        return [*argv, "--eval_strategy", "steps"]
    return list(argv)

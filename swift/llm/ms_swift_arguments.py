"""Flags that ms-swift 3.3 has too and that are honored here, and the adaptation of its launch lines.

The classes are bases of the argument classes in arguments.py. Flags of ms-swift without a meaning here are in
ms_swift_flags.py.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from typing import Any, Literal

from swift.utils.errors import UserError
from swift.utils.logger import get_logger

logger = get_logger()

FROZEN_PARTS = ("freeze_vit", "freeze_aligner", "freeze_llm")
ALL_LINEAR = "all-linear"
HELD_OUT = 0.01  # ms-swift's share of the records that are held out for validation


def flag(help: str, default: Any = None, **more: Any) -> Any:
    """A dataclass field with its line of help and more settings for argparse."""
    return field(default=default, metadata={"help": help, **more})


def require(condition: bool, message: str) -> None:
    """Raise UserError with ``message`` unless ``condition`` holds."""
    if not condition:
        raise UserError(message)


@dataclass(kw_only=True)
class LoraFlags:
    """The places of new adapters, and the adapter that trains further."""

    adapters: list[str] = field(
        default_factory=list, metadata={"help": "adapter folder to train further on top of --model"}
    )
    target_modules: list[str] = field(
        default_factory=lambda: [ALL_LINEAR],
        metadata={"help": "linear layers of the decoder that train_type lora adapts"},
    )
    target_regex: str | None = flag("regular expression of the layers that train_type lora adapts, by whole names")
    lora_dropout: float = flag("dropout of adapters that train_type lora adds", 0.0)
    freeze_vit: bool | None = flag("as in ms-swift; a warning says if --train_type does otherwise")
    freeze_aligner: bool | None = flag("as freeze_vit")
    freeze_llm: bool | None = flag("as freeze_vit")

    def check_lora(self) -> None:
        """Check the values of these flags. Raises UserError."""
        require(0 <= self.lora_dropout < 1, f"--lora_dropout {self.lora_dropout} must be at least 0 and below 1")
        require(len(self.adapters) <= 1, "--adapters names several folders; one adapter trains, name one")
        try:
            re.compile(self.target_regex or "")
        except re.error as error:
            raise UserError(f"--target_regex {self.target_regex!r} is not a regular expression: {error}") from error


@dataclass(kw_only=True)
class PromptFlags:
    """The preparation of prompts."""

    system: str | None = flag("system turn for records without one: a text, or a file that holds it")
    truncation_strategy: Literal["delete", "left", "right"] | None = flag(
        "prompts over max_length: delete leaves them out, left and right cut the text at that end; default: an error"
    )
    response_prefix: str | None = flag("text that every completion begins with, and that is not sampled")
    gray_window: Literal["percentiles", "range"] = flag(
        "deep images without a window: without half a percent at either end, or the whole range",
        "percentiles",
    )
    max_pixels: int | None = flag("most pixels of an image, above which it is scaled down; default: MAX_PIXELS if set")

    def check_prompts(self) -> None:
        """Check the values of these flags. Raises UserError."""
        require(self.max_pixels is None or self.max_pixels >= 1, f"--max_pixels {self.max_pixels} must be 1 or more")


@dataclass(kw_only=True)
class RecordFlags:
    """The fields of records, and what becomes of bad records."""

    columns: dict[str, str] | str | None = field(
        default=None,
        metadata={"help": 'JSON of fields to read under other names, such as {"text1": "query", "scan": "images"}'},
    )
    on_error: Literal["stop", "skip"] = flag(
        "a record that cannot be used: stop, or leave it out of the run and list it in args.json", "stop"
    )
    strict: bool | None = flag("ms-swift's flag: false is --on_error skip, true is --on_error stop")

    def check_record_flags(self) -> None:
        """Check the values of these flags and bring them into one form. Raises UserError."""
        self.columns = columns_by_field(self.columns)
        require(not (self.strict and self.on_error == "skip"), "--strict true and --on_error skip differ; give one")
        if self.strict is False:
            self.on_error = "skip"


def columns_by_field(value: dict[str, str] | str | None) -> dict[str, str] | None:
    """The value of ``--columns``: the name to read each field under. Raises UserError for anything else."""
    columns = json_object("columns", value) if isinstance(value, str) else value
    for field_name, name in (columns or {}).items():
        require(isinstance(name, str) and bool(name), f"--columns: {field_name!r} must be given a name, it is {name!r}")
    names = list((columns or {}).values())
    require(len(set(names)) == len(names), "--columns gives two fields the same name; give each its own")
    return columns or None


def json_object(name: str, text: str) -> dict[str, Any]:
    """The value of a flag that takes a JSON object. Raises UserError for anything else."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise UserError(f"--{name} is not JSON: {error}; quote it as '{{\"key\": value}}'") from error
    require(isinstance(value, dict), f"--{name} must be a JSON object, as in '{{\"key\": value}}'")
    return value


@dataclass(kw_only=True)
class OrderFlags:
    """The order of records, and resuming from weights alone."""

    dataset_shuffle: bool = flag("train in a new order in each epoch; false: in the order of the files", True)
    train_dataloader_shuffle: bool = flag("as dataset_shuffle; the order is that of the files if either is false", True)
    resume_only_model: bool = flag("take only the weights from resume_from_checkpoint, and begin at step 0", False)

    @property
    def shuffles(self) -> bool:
        """True if every epoch has an order of its own."""
        return self.dataset_shuffle and self.train_dataloader_shuffle


@dataclass(kw_only=True)
class GroupFlags:
    """Sampling and micro-batches of GRPO beyond the published run's flags."""

    repetition_penalty: float = flag("divides the score of tokens that occurred; scoring leaves it out", 1.0)
    stop_words: list[str] = field(
        default_factory=list, metadata={"help": "texts that end a completion, which contains them"}
    )
    mini_batch_size: int | None = flag("completions per forward and backward; default: all of the device's batch")

    def check_group(self, batch_size: int) -> None:
        """Check the values of these flags for a batch of ``batch_size`` completions. Raises UserError."""
        mini = self.mini_batch_size
        require(self.repetition_penalty > 0, f"--repetition_penalty {self.repetition_penalty} must be above 0")
        require(all(self.stop_words), "--stop_words holds an empty text, which would end every completion; remove it")
        require(
            mini is None or (mini >= 1 and batch_size % mini == 0),
            f"--mini_batch_size {mini} must divide the {batch_size} completions of a device's batch",
        )


@dataclass(kw_only=True)
class BuiltInRewardFlags:
    """Settings of the rewards cosine, repetition and soft_overlong, which the rewards' constructors receive."""

    cosine_min_len_value_wrong: float = flag("reward cosine: a wrong completion without tokens", -0.5)
    cosine_max_len_value_wrong: float = flag("reward cosine: a wrong completion of cosine_max_len tokens", 0.0)
    cosine_min_len_value_correct: float = flag("reward cosine: a right completion without tokens", 1.0)
    cosine_max_len_value_correct: float = flag("reward cosine: a right completion of cosine_max_len tokens", 0.5)
    cosine_max_len: int | None = flag("reward cosine: tokens of the longest; default: max_completion_length")
    repetition_n_grams: int = flag("reward repetition: words of the sequences that are counted", 3)
    repetition_max_penalty: float = flag("reward repetition: value if everything is repeated", -1.0)
    soft_max_length: int | None = flag("reward soft_overlong: tokens of the longest; default: max_completion_length")
    soft_cache_length: int | None = flag("rewards soft_overlong and external_length: tokens over which it falls to -1")


def whole_groups(per_device: int, accumulation: int, group: int) -> tuple[int, int, int | None]:
    """Completions per device, accumulation steps and mini-batch size with whole groups on every device.

    In ms-swift a group may be spread over devices and accumulation steps. Here a device holds whole groups. The number
    of completions of a step stays the same if groups of ``group`` fit into it, and otherwise grows to the next whole
    group. A device's forward never holds more than ``per_device`` completions.
    """
    if per_device % group == 0:
        return per_device, accumulation, None
    groups = math.ceil(per_device * accumulation / group)
    mini = max(size for size in range(1, min(per_device, group) + 1) if group % size == 0)
    return group, groups, mini if mini < group else None


def adapt_batch(args: Any) -> None:
    """Give every device whole groups (`whole_groups`), with a line that says what has changed."""
    size, steps, group = args.per_device_train_batch_size, args.gradient_accumulation_steps, args.num_generations
    if size < 1 or steps < 1 or size % group == 0:
        return
    new_size, new_steps, mini = whole_groups(size, steps, group)
    args.per_device_train_batch_size, args.gradient_accumulation_steps = new_size, new_steps
    args.mini_batch_size = args.mini_batch_size or mini
    change = f"a step has {new_size * new_steps} completions per device" + (
        "" if new_size * new_steps == size * steps else f" in place of {size * steps}"
    )
    logger.warning(
        "groups of --num_generations %d must be whole on a device: --per_device_train_batch_size %d with "
        "--gradient_accumulation_steps %d is taken as %d with %d, in mini-batches of %d; %s",
        group, size, steps, new_size, new_steps, args.mini_batch_size or new_size, change,
    )  # fmt: skip


def adapt_adapters(model: Any) -> None:
    """Turn ``--model BASE --adapters FOLDER`` into the adapter as the model on its base. ``model`` are the model's
    arguments."""
    if model.adapters:
        model.base_model, model.model = model.base_model or model.model, model.adapters[0]
        if model.train_type == "lora":
            logger.warning("--train_type lora with --adapters: the adapter of %s trains further", model.model)
            model.train_type = "dummy"


def hold_out_as_ms_swift(data: Any, training: Any) -> None:
    """Hold out the share of the records that ms-swift holds out, if validation is asked for without data for it."""
    if training.eval_strategy != "no" and not (data.val_dataset or data.split_dataset_ratio):
        data.split_dataset_ratio = HELD_OUT
        logger.warning(
            "--eval_strategy %s without validation data: --split_dataset_ratio %g, as in ms-swift",
            training.eval_strategy.value, HELD_OUT,
        )  # fmt: skip


def warn_of_frozen_parts(model: Any) -> None:
    """Warn if a freeze flag of ms-swift asks for what --train_type and --trainable do not do."""
    happens = dict(zip(FROZEN_PARTS, (False,) * 3 if model.train_type == "full" else (True, True, False), strict=True))
    asked = {name: getattr(model, name) for name in FROZEN_PARTS if getattr(model, name) is not None}
    differing = [name for name, value in asked.items() if model.trainable or value != happens[name]]
    if differing:
        flags = ", ".join(f"--{name} {str(asked[name]).lower()}" for name in differing)
        logger.warning("%s without effect: --train_type and --trainable choose the parameters that train", flags)


def installed_trackers(names: list[str]) -> list[str]:
    """The trackers whose packages are installed, with a warning for the others. Raises UserError for unknown names."""
    if not names:
        return names
    from transformers.integrations import get_available_reporting_integrations
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    installed = get_available_reporting_integrations()
    for name in names:
        known = name in installed or name in INTEGRATION_TO_CALLBACK
        require(known, f"--report_to {name}: no such tracker; name one that transformers knows, or none")
        if name not in installed:
            logger.warning("--report_to %s: its package is not installed, so nothing is sent to it", name)
    return [name for name in names if name in installed]

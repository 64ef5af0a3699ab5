"""Memory that a run will take, counted before it starts, part by part.

Counted from shapes: weights, what trains (float32 value, gradient and optimizer state), the reference, the keys and
values of a rollout, and the largest chunk of logits. Activations depend on the kernels and are estimated. A part is
either held throughout or needed in one stage only, so the peak is the sum of what is held plus the larger stage.

The peak is that of the worst case: the longest prompts in one batch, and completions of their full length. How long
completions get is not known before they are sampled, so a run is refused only if it cannot do with the least: its
shortest prompts and one token each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import nn
from transformers import PreTrainedConfig

from swift.engine.chunked_head import CHUNK_ELEMENTS
from swift.engine.long_groups import Passes
from swift.engine.rollout.slices import SAMPLED_BYTES, cached_bytes, passing_bytes
from swift.utils.errors import UserError
from swift.utils.logger import get_logger

logger = get_logger()

FLOAT32 = 4
# Optimizer state per trained entry, in bytes, by words in the optimizer's name. Others keep AdamW's two float32.
STATE_BYTES = {"8bit": 2.0, "4bit": 1.0, "adafactor": 0.1, "sgd": 0.0, "lion": 4.0}
ADAM_BYTES = 8.0
SAVED_PER_LAYER = (
    34  # values of the hidden size that a decoder layer keeps per token for its backward; measured: 20 to 28
)
LOGITS_CHUNKS = 3  # logits, their exponentials and the gradient of a chunk live at once
ADAFACTOR_COPIES = 2  # float32 copies of the tensor that it updates
FROZEN, KEYS, CASTS = "frozen weights", "keys and values", "casts of trained weights"
LOGITS, ACTIVATIONS, SQUARES = "logits", "activations (estimate)", "squares of the largest gradient"


@dataclass(frozen=True)
class Load:
    """The largest step of a run on one process: B prompts, with G completions of at most C tokens each.

    Without a rollout, as in SFT, ``prompts`` is 0.
    """

    prompts: int
    shortest_prompt: int  # tokens
    longest_prompt: int
    group_size: int
    completion_tokens: int
    prompts_per_update: int  # that one forward and backward pass holds
    completions_per_update: int
    passes: Passes | None = None  # in which the update computes long groups; None: in packed rows

    @property
    def rows(self) -> int:
        """Completions that a rollout decodes at once."""
        return self.prompts * self.group_size

    @property
    def cached_tokens(self) -> int:
        """Tokens whose keys and values a rollout holds. A group holds its prompt once, padded to the longest one of
        the batch."""
        return self.prompts * self.longest_prompt + self.rows * self.completion_tokens

    @property
    def least_cached_tokens(self) -> int:
        """The same if the rollout runs in slices of one group, that of the shortest prompt, and every completion is
        one token."""
        return self.shortest_prompt + self.group_size if self.prompts else 0

    @property
    def scored_tokens(self) -> int:
        """Completion tokens of one backward pass, whose logits are computed."""
        return self.completions_per_update * self.completion_tokens

    @property
    def update_tokens(self) -> int:
        """Tokens whose activations the update holds at once: those of the packed rows of one micro-batch, or of a
        section and a slice of one group."""
        if self.passes is None:
            return self.prompts_per_update * self.longest_prompt + self.scored_tokens
        section = min(self.passes.prompt_tokens, self.longest_prompt)
        slice_ = max(self.passes.completion_tokens, self.completion_tokens)
        return section + min(slice_, self.group_size * self.completion_tokens)


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes by part in the worst case. ``held`` is there throughout, the three stages (``step`` is the optimizer's) in
    turn. ``least`` names the parts of a stage that may take less, with the bytes that they take for certain."""

    held: Mapping[str, float]
    rollout: Mapping[str, float] = field(default_factory=dict)
    update: Mapping[str, float] = field(default_factory=dict)
    step: Mapping[str, float] = field(default_factory=dict)
    least: Mapping[str, float] = field(default_factory=dict)

    @property
    def stages(self) -> dict[str, Mapping[str, float]]:
        """The stages by their names in the log."""
        return {"rollout": self.rollout, "update": self.update, "optimizer step": self.step}

    @property
    def certain(self) -> float:
        """Bytes that the run cannot do without."""
        stages = [sum(self.least.get(part, n) for part, n in stage.items()) for stage in self.stages.values()]
        return sum(self.held.values()) + max(stages)

    @property
    def peak(self) -> float:
        """Bytes at the worst moment, activations estimated."""
        return sum(self.held.values()) + max(sum(stage.values()) for stage in self.stages.values())

    def lines(self) -> list[str]:
        """A table for the log, one part a line, in GB (1e9 bytes)."""
        rows = [
            *self.held.items(),
            *((f"{stage}: {part}", value) for stage, parts in self.stages.items() for part, value in parts.items()),
            ("at the least", self.certain),
            ("peak", self.peak),
        ]
        width = max(len(name) for name, _ in rows)
        return [f"{name:{width}} {value / 1e9:9.3f} GB" for name, value in rows]


def plan_memory(
    model: nn.Module,
    load: Load,
    *,
    compute: torch.dtype,
    optimizer: str,
    reference: float,
    checkpointing: bool,
    split: Mapping[str, int],
    buckets: bool = False,
) -> MemoryPlan:
    """The plan of one process.

    Args:
        model: the policy; what trains requires gradients already.
        compute: the type the model computes in.
        optimizer: name of the optimizer, as in ``--optim``.
        reference: bytes of the reference policy; 0 without one.
        checkpointing: activations of the decoder are computed again in the backward pass.
        split: over how many processes "weights", "gradients" and "optimizer" are divided (``processes_per_part``).
        buckets: DistributedDataParallel keeps the gradients a second time, in the buckets that it sends.
    """
    sizes = [p.numel() for p in model.parameters() if p.requires_grad]
    narrow, config = compute.itemsize, model.config.get_text_config()
    copies = 0 if narrow == FLOAT32 else narrow * sum(sizes)
    gradients = {"gradients": FLOAT32 * sum(sizes) / split["gradients"]}  # freed after a step: no rollout holds them
    if buckets:
        gradients["gradients in buckets"] = gradients["gradients"]
    squares = {SQUARES: ADAFACTOR_COPIES * FLOAT32 * max(sizes, default=0)} if "adafactor" in optimizer else {}
    token = cached_bytes(config, narrow)
    reading = passing_bytes(config, narrow) * load.prompts * load.longest_prompt
    return MemoryPlan(
        held=_held_bytes(model, optimizer, split) | {"reference": reference / split["weights"]},
        rollout={
            "trained weights in the compute type": copies,
            KEYS: token * load.cached_tokens,
            ACTIVATIONS: max(reading, SAMPLED_BYTES * config.vocab_size * load.rows),
        }
        if load.prompts
        else {},
        update=gradients | _update_parts(config, load, narrow, sum(gradients.values()), copies, checkpointing),
        step=gradients | squares,
        least={
            KEYS: token * load.least_cached_tokens,
            CASTS: 0.0,
            LOGITS: _logits_bytes(config, load.prompts_per_update),
            ACTIVATIONS: 0.0,
        },
    )


def _held_bytes(model: nn.Module, optimizer: str, split: Mapping[str, int]) -> dict[str, float]:
    """Weights and optimizer state by part."""
    frozen = sum(p.numel() * p.element_size() for p in model.parameters() if not p.requires_grad)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    state = next((value for word, value in STATE_BYTES.items() if word in optimizer), ADAM_BYTES)
    return {
        FROZEN: frozen / split["weights"],
        "trained weights in float32": FLOAT32 * trained / split["weights"],
        "optimizer state": state * trained / split["optimizer"],
    }


def _update_parts(
    config: PreTrainedConfig, load: Load, narrow: int, gradients: float, copies: float, checkpointing: bool
) -> dict[str, float]:
    """Parts of the update beside the gradients. ``gradients`` and ``copies`` of what trains are in bytes."""
    sliced = load.passes is not None
    return {
        CASTS: copies,  # autograd keeps them, unless activations are computed again
        LOGITS: _logits_bytes(config, load.scored_tokens),
        ACTIVATIONS: _saved_bytes(config, narrow, checkpointing and not sliced) * load.update_tokens,
        **(_sliced_parts(config, load, narrow, gradients) if sliced else {}),
    }


def _sliced_parts(config: PreTrainedConfig, load: Load, narrow: int, gradients: float) -> dict[str, float]:
    """Parts of the update of a long group beside activations. A section and a slice each keep what they read of the
    prompt, in every layer and for all attention heads (estimate)."""
    read = 2.0 * narrow * config.hidden_size * config.num_hidden_layers * load.longest_prompt
    kept = (cached_bytes(config, narrow) + cached_bytes(config, FLOAT32)) * load.longest_prompt
    return {
        "keys and values of a prompt and their gradients": kept,
        "keys and values that passes read (estimate)": 2 * read,
        "gradients of passes": 2 * gradients,
    }


def _saved_bytes(config: PreTrainedConfig, narrow: int, checkpointing: bool) -> float:
    """Bytes of a token that the decoder saves for the backward pass: with ``checkpointing`` the input of each layer
    and about two layers that are computed again."""
    layers = 2 if checkpointing else config.num_hidden_layers
    inputs = config.num_hidden_layers if checkpointing else 0
    return float(narrow * config.hidden_size * (SAVED_PER_LAYER * layers + inputs))


def _logits_bytes(config: PreTrainedConfig, tokens: int) -> float:
    return float(LOGITS_CHUNKS * FLOAT32 * min(CHUNK_ELEMENTS, config.vocab_size * tokens))


def processes_per_part(world_size: int, zero_stage: int, fsdp: bool) -> dict[str, int]:
    """Over how many processes each part is divided, as ``plan_memory`` takes it: ZeRO-2 divides gradients and optimizer
    state (stage 1 the latter alone), ZeRO-3 and FSDP weights too."""
    first_stages = {"weights": 3, "gradients": 2, "optimizer": 1}
    return {part: world_size if fsdp or zero_stage >= stage else 1 for part, stage in first_stages.items()}


def announce_plan(plan: MemoryPlan, device: torch.device) -> None:
    """Log ``plan`` line by line. On a GPU raise UserError if it certainly does not fit, and warn if it may not."""
    for line in plan.lines():
        logger.info("memory plan: %s", line)
    if device.type != "cuda":
        return
    capacity = torch.cuda.get_device_properties(device).total_memory
    refuse_what_cannot_fit(plan, capacity)
    if plan.peak > capacity:
        logger.warning(
            "in its worst case the run needs %.1f GB and the device has %.1f GB; if memory runs out, lower "
            "--per_device_train_batch_size (in GRPO, --mini_batch_size) or pass --gradient_checkpointing true",
            plan.peak / 1e9,
            capacity / 1e9,
        )


def refuse_large_model(model: nn.Module, device: torch.device) -> None:
    """Raise UserError if the weights of ``model`` alone exceed the memory of ``device``, a GPU, before they move there
    and memory runs out half way."""
    if device.type == "cuda":
        weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
        plan = MemoryPlan({FROZEN: float(weights)})
        refuse_what_cannot_fit(plan, torch.cuda.get_device_properties(device).total_memory)


def refuse_what_cannot_fit(plan: MemoryPlan, capacity: float) -> None:
    """Raise UserError if what is certain exceeds ``capacity`` bytes, naming the flag that would help most."""
    if plan.certain <= capacity:
        return
    parts = {**plan.held, **{part: plan.least.get(part, value) for part, value in plan.rollout.items()}}
    largest = max(parts, key=parts.get)
    remedy = {
        FROZEN: "use several GPUs with --deepspeed zero3",
        "reference": "leave --ref_model out, or pass --beta 0",
        KEYS: "lower --per_device_train_batch_size, --num_generations or --dynamic_hd",
    }.get(largest, "use several GPUs with --deepspeed zero2, or --optim adamw_torch_8bit")
    raise UserError(
        f"the run needs {plan.certain / 1e9:.1f} GB and the device has {capacity / 1e9:.1f} GB, most of it for "
        f"{largest}; {remedy}"
    )

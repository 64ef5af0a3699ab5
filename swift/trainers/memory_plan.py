"""Memory that a run will take, counted before it starts, part by part.

Counted from shapes: weights, what trains (float32 value, gradient and optimizer state), the reference, the keys and
values of a rollout, and the largest chunk of logits. Activations of the update depend on the kernels and are estimated.
A part is either held throughout or needed in one stage only, so the peak is the sum of what is held plus the larger
stage.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from swift.engine.chunked_head import CHUNK_ELEMENTS
from swift.utils.errors import UserError
from swift.utils.logger import get_logger

logger = get_logger()

FLOAT32 = 4
# Optimizer state per trained entry, in bytes, by words in the optimizer's name. Others keep AdamW's two float32.
STATE_BYTES = {"8bit": 2.0, "4bit": 1.0, "adafactor": 0.1, "sgd": 0.0, "lion": 4.0}
ADAM_BYTES = 8.0
SAVED_PER_LAYER = 34  # values of the hidden size that a decoder layer keeps per token for its backward (estimate)
LOGITS_CHUNKS = 3  # logits, their exponentials and the gradient of a chunk live at once


@dataclass(frozen=True)
class Load:
    """The largest step of a run on one process: B prompts of P tokens at most, G completions of C tokens each.

    Without a rollout, as in SFT, ``prompts`` is 0.
    """

    prompts: int
    prompt_tokens: int
    group_size: int
    completion_tokens: int
    prompts_per_update: int  # prompts of one micro-batch: those that one backward holds

    @property
    def cached_tokens(self) -> int:
        """Tokens whose keys and values a rollout holds."""
        return self.prompts * self.group_size * (self.prompt_tokens + self.completion_tokens)

    @property
    def update_tokens(self) -> int:
        """Tokens of the packed rows of one micro-batch."""
        return self.prompts_per_update * (self.prompt_tokens + self.group_size * self.completion_tokens)


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes by part. ``held`` is there throughout, ``rollout`` and ``update`` in turn."""

    held: Mapping[str, float]
    rollout: Mapping[str, float]
    update: Mapping[str, float]

    @property
    def certain(self) -> float:
        """Bytes that the run cannot do without: all parts but the estimated activations."""
        stages = sum(self.rollout.values()), sum(v for k, v in self.update.items() if "estimate" not in k)
        return sum(self.held.values()) + max(stages)

    @property
    def peak(self) -> float:
        """Bytes at the worst moment, activations estimated."""
        return sum(self.held.values()) + max(sum(self.rollout.values()), sum(self.update.values()))

    def lines(self) -> list[str]:
        """A table for the log, one part a line, in GB (1e9 bytes)."""
        rows = [
            *self.held.items(),
            *((f"rollout: {name}", value) for name, value in self.rollout.items()),
            *((f"update: {name}", value) for name, value in self.update.items()),
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
) -> MemoryPlan:
    """The plan of one process.

    Args:
        model: the policy; what trains requires gradients already.
        compute: the type the model computes in.
        optimizer: name of the optimizer, as in ``--optim``.
        reference: bytes of the reference policy; 0 without one.
        checkpointing: activations of the decoder are computed again in the backward pass.
        split: over how many processes "weights", "gradients" and "optimizer" are divided (``processes_per_part``).
    """
    narrow = compute.itemsize
    frozen = sum(p.numel() * p.element_size() for p in model.parameters() if not p.requires_grad)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    config = model.config.get_text_config()
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    cached = 2 * config.num_hidden_layers * config.num_key_value_heads * width * narrow
    state = next((value for word, value in STATE_BYTES.items() if word in optimizer), ADAM_BYTES)
    copies = 0 if narrow == FLOAT32 else narrow * trained
    saved = SAVED_PER_LAYER * config.hidden_size * narrow
    layers = 2 if checkpointing else config.num_hidden_layers
    kept = config.num_hidden_layers * config.hidden_size * narrow if checkpointing else 0
    return MemoryPlan(
        held={
            "frozen weights": frozen / split["weights"],
            "trained weights in float32": FLOAT32 * trained / split["weights"],
            "optimizer state": state * trained / split["optimizer"],
            "reference": reference / split["weights"],
        },
        rollout={}
        if load.prompts == 0
        else {
            "trained weights in the compute type": copies,
            "keys and values": float(cached * load.cached_tokens),
        },
        update={
            "gradients": FLOAT32 * trained / split["gradients"],  # freed after each step, so no rollout holds them
            "trained weights in the compute type": copies,
            "logits": float(LOGITS_CHUNKS * FLOAT32 * min(CHUNK_ELEMENTS, config.vocab_size * load.update_tokens)),
            "activations (estimate)": float((saved * layers + kept) * load.update_tokens),
        },
    )


def processes_per_part(world_size: int, zero_stage: int, fsdp: bool) -> dict[str, int]:
    """Over how many processes each part is divided, as ``plan_memory`` takes it: ZeRO-2 divides gradients and optimizer
    state (stage 1 the latter alone), ZeRO-3 and FSDP weights too."""
    first_stages = {"weights": 3, "gradients": 2, "optimizer": 1}
    return {part: world_size if fsdp or zero_stage >= stage else 1 for part, stage in first_stages.items()}


def announce_plan(plan: MemoryPlan, device: torch.device) -> None:
    """Log ``plan`` line by line. On a GPU raise UserError if it certainly does not fit."""
    for line in plan.lines():
        logger.info("memory plan: %s", line)
    if device.type == "cuda":
        refuse_what_cannot_fit(plan, torch.cuda.get_device_properties(device).total_memory)


def refuse_what_cannot_fit(plan: MemoryPlan, capacity: float) -> None:
    """Raise UserError if the parts that are certain exceed ``capacity`` bytes, naming the flag that would help most."""
    if plan.certain <= capacity:
        return
    largest = max({**plan.held, **plan.rollout}.items(), key=lambda part: part[1])[0]
    remedy = {
        "frozen weights": "use several GPUs with --deepspeed zero3",
        "reference": "leave --ref_model out, or pass --beta 0",
        "keys and values": "lower --per_device_train_batch_size, --num_generations or --dynamic_hd",
    }.get(largest, "use several GPUs with --deepspeed zero2, or --optim adamw_torch_8bit")
    raise UserError(
        f"the run needs {plan.certain / 1e9:.1f} GB and the device has {capacity / 1e9:.1f} GB, most of it for "
        f"{largest}; {remedy}"
    )

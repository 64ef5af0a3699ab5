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
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedConfig

from swift.engine.chunked_head import CHUNK_ELEMENTS
from swift.engine.long_groups import Passes
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
SAMPLED_BYTES = 30  # per row and entry of the vocabulary, while a token is drawn (estimate)
FROZEN, KEYS, CASTS = "frozen weights", "keys and values", "casts of trained weights"
LOGITS, ACTIVATIONS = "logits", "activations (estimate)"


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
    prompts_per_update: int  # prompts of one micro-batch: those that one backward holds
    passes: Passes | None = None  # in which the update computes long groups; None: in packed rows

    @property
    def rows(self) -> int:
        """Completions that a rollout decodes at once."""
        return self.prompts * self.group_size

    @property
    def cached_tokens(self) -> int:
        """Tokens whose keys and values a rollout holds. Prompts are padded to the longest one of the batch, and a
        completion that has ended is padded until all have."""
        return self.rows * (self.longest_prompt + self.completion_tokens)

    @property
    def least_cached_tokens(self) -> int:
        """The same if the step has only the shortest prompts and every completion is one token."""
        return self.rows * (self.shortest_prompt + 1)

    @property
    def scored_tokens(self) -> int:
        """Completion tokens of one micro-batch, whose logits are computed."""
        return self.prompts_per_update * self.group_size * self.completion_tokens

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
    """Bytes by part in the worst case. ``held`` is there throughout, ``rollout`` and ``update`` in turn. ``least``
    names the parts of a stage that may take less, with the bytes that they take for certain."""

    held: Mapping[str, float]
    rollout: Mapping[str, float]
    update: Mapping[str, float]
    least: Mapping[str, float]

    @property
    def certain(self) -> float:
        """Bytes that the run cannot do without."""
        stages = [sum(self.least.get(part, value) for part, value in s.items()) for s in (self.rollout, self.update)]
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
    narrow = compute.itemsize
    frozen = sum(p.numel() * p.element_size() for p in model.parameters() if not p.requires_grad)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    config = model.config.get_text_config()
    state = next((value for word, value in STATE_BYTES.items() if word in optimizer), ADAM_BYTES)
    copies = 0 if narrow == FLOAT32 else narrow * trained
    gradients = FLOAT32 * trained / split["gradients"]
    token = _cached_bytes(config, narrow)
    return MemoryPlan(
        held={
            FROZEN: frozen / split["weights"],
            "trained weights in float32": FLOAT32 * trained / split["weights"],
            "optimizer state": state * trained / split["optimizer"],
            "reference": reference / split["weights"],
        },
        rollout={}
        if load.prompts == 0
        else {
            "trained weights in the compute type": copies,
            KEYS: token * load.cached_tokens,
            ACTIVATIONS: max(
                _passing_bytes(config, narrow) * load.prompts * load.longest_prompt,
                SAMPLED_BYTES * config.vocab_size * load.rows,
            ),
        },
        update=_update_parts(config, load, narrow, gradients, copies, buckets, checkpointing),
        least={
            KEYS: token * load.least_cached_tokens,
            CASTS: 0.0,
            LOGITS: _logits_bytes(config, load.prompts_per_update),
            ACTIVATIONS: 0.0,
        },
    )


def _cached_bytes(config: PreTrainedConfig, narrow: int) -> float:
    """Keys and values of a token in all layers; ``narrow`` is the size of the compute type."""
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2.0 * config.num_hidden_layers * config.num_key_value_heads * width * narrow


def _update_parts(
    config: PreTrainedConfig,
    load: Load,
    narrow: int,
    gradients: float,
    copies: float,
    buckets: bool,
    checkpointing: bool,
) -> dict[str, float]:
    """Parts of the update. ``gradients`` and ``copies`` of what trains are in bytes."""
    sliced = load.passes is not None
    return {
        "gradients": gradients,  # freed after each step, so no rollout holds them
        **({"gradients in buckets": gradients} if buckets else {}),
        CASTS: copies,  # autograd keeps them, unless activations are computed again
        LOGITS: _logits_bytes(config, load.scored_tokens),
        ACTIVATIONS: _saved_bytes(config, narrow, checkpointing and not sliced) * load.update_tokens,
        **(_sliced_parts(config, load, narrow, gradients) if sliced else {}),
    }


def _sliced_parts(config: PreTrainedConfig, load: Load, narrow: int, gradients: float) -> dict[str, float]:
    """Parts of the update of a long group beside activations. A section and a slice each keep what they read of the
    prompt, in every layer and for all attention heads (estimate)."""
    read = 2.0 * narrow * config.hidden_size * config.num_hidden_layers * load.longest_prompt
    kept = (_cached_bytes(config, narrow) + _cached_bytes(config, FLOAT32)) * load.longest_prompt
    return {
        "keys and values of a prompt and their gradients": kept,
        "keys and values that passes read (estimate)": 2 * read,
        "gradients of passes": 2 * gradients,
    }


def _passing_bytes(config: PreTrainedConfig, narrow: int) -> float:
    """What one layer holds of a token in a pass without gradients: both halves of its MLP, their product, and four
    hidden states."""
    return narrow * (3.0 * getattr(config, "intermediate_size", config.hidden_size) + 4 * config.hidden_size)


def _saved_bytes(config: PreTrainedConfig, narrow: int, checkpointing: bool) -> float:
    """What the decoder saves of a token for the backward pass. With ``checkpointing`` it is the input of each layer and
    about two layers that are computed again."""
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
            "--per_device_train_batch_size or pass --gradient_checkpointing true",
            plan.peak / 1e9,
            capacity / 1e9,
        )


def refuse_large_model(model: nn.Module, device: torch.device) -> None:
    """Raise UserError if the weights of ``model`` alone exceed the memory of ``device``, a GPU, before they move there
    and memory runs out half way."""
    if device.type == "cuda":
        weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
        plan = MemoryPlan({FROZEN: float(weights)}, {}, {}, {})
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

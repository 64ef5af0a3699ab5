"""The choice between packed rows and passes over long groups, made by the memory plan."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import nn

from swift.engine.long_groups import Passes
from swift.engine.probe import why_not_sliced
from swift.llm.template.protocol import EncodedPrompt, Template
from swift.trainers.memory_plan import Load, MemoryPlan
from swift.utils.logger import get_logger

logger = get_logger()

SHORTEST_PASS = 256  # tokens of a pass below which smaller ones save little, since all of them read the prompt


def choose_passes(
    tokens: int | None, load: Load, plan_of: Callable[[Load], MemoryPlan], device: torch.device
) -> Passes | None:
    """The passes of a run whose largest step is ``load``; None for packed rows.

    ``tokens`` is ``--tokens_per_pass``. If it is None, packed rows are taken if ``plan_of`` says that they fit into the
    memory of ``device``, a GPU, or if it is a CPU. Otherwise the first of `candidates` is taken that fits.
    """
    if tokens is not None:
        return Passes(tokens, tokens) if tokens else None
    if device.type != "cuda":
        return None
    return fitting_passes(load, plan_of, torch.cuda.get_device_properties(device).total_memory)


def fitting_passes(load: Load, plan_of: Callable[[Load], MemoryPlan], capacity: float) -> Passes | None:
    """None if packed rows fit into ``capacity`` bytes, otherwise the first of `candidates` that does. If none does,
    whichever of all has the lowest peak."""
    choices = [None, *candidates(load)]
    peaks = [update_bytes(plan_of(replace(load, passes=choice))) for choice in choices]
    fitting = [choice for choice, peak in zip(choices, peaks, strict=True) if peak <= capacity]
    return fitting[0] if fitting else choices[peaks.index(min(peaks))]


def update_bytes(plan: MemoryPlan) -> float:
    """Bytes at the worst moment of the update. A rollout that does not fit is not helped by passes."""
    return sum(plan.held.values()) + sum(plan.update.values())


def candidates(load: Load) -> Iterator[Passes]:
    """Ever smaller passes: the prompt whole and half as many completions each time, then down to one completion; after
    that half as much of the prompt each time."""
    prompt, completions = load.longest_prompt, load.group_size
    while completions > 1:
        completions = (completions + 1) // 2
        yield Passes(prompt, completions * load.completion_tokens)
    while prompt > SHORTEST_PASS:
        prompt = max(SHORTEST_PASS, (prompt + 1) // 2)
        yield Passes(prompt, max(prompt, load.completion_tokens))


def check_passes(
    passes: Passes,
    model: nn.Module,
    template: Template,
    examples: Sequence[EncodedPrompt],
    *,
    packed: bool,
    divided: bool,
) -> Passes | None:
    """``passes``, unless the model cannot take long groups in them; then None, with the reason in the log. ``packed``
    says that it takes packed rows, ``divided`` that an engine divides its weights over processes; ``examples`` are
    prompts of the run."""
    reason = "weights are divided over processes" if divided else None
    if reason is None and not packed:
        reason = "log-probabilities are not packed"
    reason = reason or why_not_sliced(model, template, examples)
    logger.info("long groups: %s", f"{passes}" if reason is None else f"in whole rows ({reason})")
    return passes if reason is None else None

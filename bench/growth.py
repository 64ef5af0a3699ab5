"""Growth of a step's time and memory with the group, the prompt, the completion and the vocabulary.

    python -m bench.growth [--rounds 3]     # measured: one factor varies, the others stay at the base
    python -m bench.growth --computed       # from the memory plan, at the published sizes, on 1 to 8 GPUs

The measured model is that of bench.grpo_step: Phi-4-multimodal's architecture, random weights, width 512, with the head
training. Every point runs in a process of its own. Memory is the peak of resident memory less what the process held
before. The output is two Markdown tables, as in docs/scale.md.
"""

from __future__ import annotations

import argparse
import multiprocessing
import re
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from bench.grpo_step import build
from swift.engine.logprobs import completion_logprobs
from swift.engine.rollout.choosing import Sampling
from swift.engine.sampling import generate
from swift.llm.arguments import ModelArguments
from swift.llm.trainable import choose_trainable
from swift.trainers.memory_plan import Load, MemoryPlan, plan_memory, processes_per_part
from swift.utils.errors import reports_user_errors
from tools.rehearsal.checkpoint import empty_shell
from tools.rehearsal.sizes import rehearsal_config


@dataclass(frozen=True)
class Shape:
    """One step: a prompt of P tokens with G completions of C tokens, over a vocabulary."""

    prompt: int = 545
    group: int = 8
    completion: int = 64
    vocabulary: int = 8192


@dataclass(frozen=True)
class Cost:
    """Median seconds of a stage, and the most memory it took, in bytes."""

    seconds: float
    memory: int


MEASURED = {
    "prompt": (136, 272, 545, 1090, 2180),
    "group": (2, 4, 8, 16, 32),
    "completion": (16, 32, 64, 128, 256),
    "vocabulary": (8192, 32768, 200_064),
}
COMPUTED = {
    "prompt": (545, 1329, 2658, 5316),
    "group": (4, 8, 16, 32),
    "completion": (128, 256, 512, 1024),
}
PUBLISHED = Shape(prompt=1329, group=8, completion=256)
PROCESSES = (1, 2, 4, 8)


def measure(shape: Shape, rounds: int) -> tuple[Cost, Cost]:
    """Costs of the rollout and of the update (forward and backward), each after an uncounted round."""
    model, prompts, completions = build(shape.prompt, shape.group, shape.completion, "cpu", shape.vocabulary)
    sampling = Sampling(shape.completion, stop_token_ids=(0,), pad_token_id=0, banned_token_ids=(0,))
    uniforms = torch.rand(shape.group, shape.completion, generator=torch.Generator().manual_seed(0))

    def rollout() -> None:
        generate(model, prompts, shape.group, sampling, uniforms)

    def update() -> None:
        model.zero_grad()
        completion_logprobs(model, prompts, completions).logps.sum().backward()

    return _cost(rollout, rounds), _cost(update, rounds)


def _cost(work: Callable[[], None], rounds: int) -> Cost:
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    seconds = []
    for _ in range(rounds + 1):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return Cost(statistics.median(seconds[1:]), _memory("VmHWM") - before)


def _memory(name: str) -> int:
    return 1024 * int(re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def print_measured(rounds: int) -> None:
    """Print a row per point, with ratios to the row before it."""
    print("| factor | value | rollout | update | rollout memory | update memory |")
    print("|---|---|---|---|---|---|")
    for factor, values in MEASURED.items():
        last = None
        for value in values:
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                costs = pool.apply(measure, (replace(Shape(), **{factor: value}), rounds))
            print(f"| {factor} | {value:,} | " + " | ".join(_cells(costs, last)) + " |", flush=True)
            last = costs


def _cells(costs: Sequence[Cost], last: Sequence[Cost] | None) -> list[str]:
    cells = [f"{cost.seconds:.2f} s" for cost in costs] + [f"{cost.memory / 1e6:.0f} MB" for cost in costs]
    if last is None:
        return cells
    ratios = [new.seconds / old.seconds for new, old in zip(costs, last, strict=True)]
    ratios += [new.memory / old.memory for new, old in zip(costs, last, strict=True)]
    return [f"{cell} ({ratio:.1f}x)" for cell, ratio in zip(cells, ratios, strict=True)]


def planned(shape: Shape, processes: int) -> MemoryPlan:
    """The memory plan of vision LoRA and head at the published sizes, in bfloat16 with activation checkpointing and
    8-bit AdamW, and weights divided over the processes (ZeRO-3 or FSDP2)."""
    model = empty_shell(rehearsal_config()).to(torch.bfloat16)
    model.tie_weights()
    choose_trainable(model, ModelArguments(model="", trainable="vision-lora+head"))
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return plan_memory(
        model,
        Load(1, shape.prompt, shape.prompt, shape.group, shape.completion, 1, shape.group),
        compute=torch.bfloat16,
        optimizer="adamw_torch_8bit",
        reference=2.0 * trained,
        checkpointing=True,
        split=processes_per_part(processes, 3 if processes > 1 else 0, fsdp=False),
    )


def print_computed() -> None:
    """Print GB per GPU: at the peak, and of the stages that the factors change."""
    print("| factor | value | GB at the peak | rollout | update |")
    print("|---|---|---|---|---|")
    points = [(name, value, replace(PUBLISHED, **{name: value}), 1) for name in COMPUTED for value in COMPUTED[name]]
    for factor, value, shape, processes in [*points, *(("processes", n, PUBLISHED, n) for n in PROCESSES)]:
        plan = planned(shape, processes)
        stages = [sum(stage.values()) / 1e9 for stage in (plan.rollout, plan.update)]
        print(f"| {factor} | {value:,} | {plan.peak / 1e9:.1f} | {stages[0]:.1f} | {stages[1]:.1f} |")


@reports_user_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Print one of the two tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--rounds", type=int, default=3, help="counted rounds per point")
    parser.add_argument("--computed", action="store_true", help="print the plan at the published sizes")
    args = parser.parse_args(argv)
    if args.computed:
        print_computed()
    else:
        print_measured(args.rounds)


if __name__ == "__main__":
    main()

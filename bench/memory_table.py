"""Memory of a run of the published sizes on one GPU, by setting, as the memory plan counts it.

    python -m bench.memory_table

Nothing is loaded: the model has shapes only. One prompt of one film (2 x 2 crops, 60 tokens of text) with 8 completions
of 256 tokens per step and GPU, in bfloat16. Prints the table of docs/scale.md.
"""

from __future__ import annotations

import itertools

import torch

from swift.llm.arguments import ModelArguments
from swift.llm.trainable import choose_trainable
from swift.trainers.memory_plan import Load, MemoryPlan, plan_memory, processes_per_part
from tools.rehearsal.checkpoint import empty_shell
from tools.rehearsal.sizes import rehearsal_config

CARDS = (24, 48, 80, 141)  # GB
SPARE = 1.5  # GB that the CUDA context and the allocator's gaps take (estimate)
PROMPT = 1329 + 60
LOAD = Load(1, PROMPT, PROMPT, group_size=8, completion_tokens=256, prompts_per_update=1, completions_per_update=8)
TRAINED = {"vision LoRA": r"\.lora_[AB]\.vision\.", "LoRA and head": "vision-lora+head", "everything": "."}
ENGINES = {  # name: processes, ZeRO stage, FSDP2
    "1 GPU": (1, 0, False),
    "4 GPUs, DDP": (4, 0, False),
    "4 GPUs, ZeRO-2": (4, 2, False),
    "4 GPUs, ZeRO-3 or FSDP2": (4, 3, True),
}
OPTIONS = {  # optimizer, activation checkpointing, KL term
    "as published": ("adamw_torch_fused", False, True),
    "checkpointing": ("adamw_torch_fused", True, True),
    "checkpointing, 8-bit AdamW": ("adamw_torch_8bit", True, True),
    "checkpointing, Adafactor": ("adafactor", True, True),
    "checkpointing, 8-bit AdamW, beta 0": ("adamw_torch_8bit", True, False),
}


def plans() -> dict[tuple[str, str, str], MemoryPlan]:
    """The plan by what trains, engine and options."""
    table = {}
    for trained, pattern in TRAINED.items():
        model = empty_shell(rehearsal_config()).to(torch.bfloat16)
        model.tie_weights()
        choose_trainable(model, ModelArguments(model="", trainable=pattern))
        sizes = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        for (engine, (processes, stage, fsdp)), (name, option) in itertools.product(ENGINES.items(), OPTIONS.items()):
            optimizer, checkpointing, kl = option
            table[trained, engine, name] = plan_memory(
                model,
                LOAD,
                compute=torch.bfloat16,
                optimizer=optimizer,
                reference=2.0 * sizes if kl else 0.0,
                checkpointing=checkpointing,
                split=processes_per_part(processes, stage, fsdp),
                buckets=processes > 1 and stage == 0,
            )
    return table


def cell(plan: MemoryPlan) -> str:
    """GB at the peak, and the smallest card that has them."""
    needed = plan.peak / 1e9
    card = next((str(card) for card in CARDS if needed + SPARE <= card), "none")
    return f"{needed:.1f} ({card})"


def main() -> None:
    """Print the table."""
    table = plans()
    print("| trains | settings | " + " | ".join(ENGINES) + " |")
    print("|" + "---|" * (2 + len(ENGINES)))
    for trained, name in itertools.product(TRAINED, OPTIONS):
        print(f"| {trained} | {name} | " + " | ".join(cell(table[trained, engine, name]) for engine in ENGINES) + " |")


if __name__ == "__main__":
    main()

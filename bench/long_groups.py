"""Peak memory and time of the update of one long group, in a packed row and in sections and slices.

    python -m bench.long_groups [--prompt 2658] [--group 16] [--completion 128] [--tokens 512] [--layers 2]

The decoder has the widths of Phi-4-multimodal (hidden size 3,072, 24 heads, 8 of keys and values, MLP of 8,192), few
layers and a small vocabulary. A LoRA of rank 256 trains. Each form runs in a process of its own, whose memory is
compared with what it was before the update. Gradients are compared in the end. The last line is a JSON object.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import Phi4MultimodalConfig, Phi4MultimodalForCausalLM

from swift.engine.batch import Completions, PromptBatch
from swift.engine.logprobs import completion_logprobs
from swift.engine.long_groups import Passes, sliced_loss
from swift.llm.checkpoint.adapters import add_vision_adapter
from tools.demo_world.policy import policy_config, train_tokenizer

WIDTHS = {"hidden_size": 3072, "intermediate_size": 8192, "num_attention_heads": 24, "num_key_value_heads": 8}
FORMS = ("packed", "sliced")


def build(args: argparse.Namespace) -> tuple[nn.Module, PromptBatch, Completions]:
    """Build the model, one prompt of random embeddings, and a group of full-length completions."""
    torch.manual_seed(0)
    config: Phi4MultimodalConfig = policy_config(train_tokenizer(["a"]))
    config.update({**WIDTHS, "num_hidden_layers": args.layers})
    model = Phi4MultimodalForCausalLM(config).to(getattr(torch, args.dtype)).train()
    add_vision_adapter(model, rank=256, alpha=512)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".lora_" in name)
        if ".lora_B.vision." in name:
            nn.init.normal_(parameter, std=0.02)
    ids = torch.randint(10, config.vocab_size, (1, args.prompt))
    mask = torch.ones_like(ids, dtype=torch.bool)
    with torch.no_grad():
        prompts = PromptBatch(ids, mask, ((),), model.model.embed_tokens(ids))
    tokens = torch.randint(10, config.vocab_size, (args.group, args.completion))
    lengths = torch.full((args.group,), args.completion)
    return model, prompts, Completions(tokens, lengths, torch.ones_like(lengths, dtype=torch.bool))


def update(form: str, args: argparse.Namespace, folder: str) -> dict[str, float]:
    """Compute the gradients once and write them to ``folder``. Returns seconds and bytes."""
    model, prompts, completions = build(args)
    advantages = torch.linspace(-1, 1, args.group)

    def loss_of(rows: slice, scores: object) -> Tensor:
        return (scores.logps * advantages[rows, None]).sum() / completions.ids.numel()

    before = _resident()
    began = time.perf_counter()
    if form == "packed":
        loss = loss_of(slice(0, args.group), completion_logprobs(model, prompts, completions))
    else:
        loss, _ = sliced_loss(model, prompts, completions, Passes(args.tokens, args.tokens), loss_of)
    loss.backward()
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    gradients = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    torch.save(gradients, Path(folder) / form)
    return {"seconds": seconds, "update_bytes": peak - before, "peak_bytes": peak}


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def differences(folder: str) -> tuple[float, float]:
    """Distance of the gradients of both forms: the largest difference of an entry relative to the largest entry
    of all, and the norm of the difference of all entries relative to their norm."""
    packed, sliced = (torch.load(Path(folder) / form, weights_only=True) for form in FORMS)
    if packed.keys() != sliced.keys():
        raise ValueError("the two forms have gradients of different parameters")
    pairs = [(sliced[name].double(), value.double()) for name, value in packed.items()]
    entry = max(float((a - b).abs().max()) for a, b in pairs) / max(float(b.abs().max()) for _, b in pairs)
    norms = [sum(float((a - b).square().sum()) for a, b in pairs), sum(float(b.square().sum()) for _, b in pairs)]
    return entry, math.sqrt(norms[0] / norms[1])


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--prompt", type=int, default=2658, help="prompt tokens, by default those of two films")
    parser.add_argument("--group", type=int, default=16, help="completions of the prompt")
    parser.add_argument("--completion", type=int, default=128, help="tokens of each completion")
    parser.add_argument("--tokens", type=int, default=256, help="most tokens of a section or slice")
    parser.add_argument("--layers", type=int, default=2, help="decoder layers")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help="type of the weights")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        results = {}
        for form in FORMS:
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                results[form] = pool.apply(update, (form, args, folder))
        entry, norm = differences(folder)
    packed, sliced = (results[form] for form in FORMS)
    saved = {name: 1 - sliced[name] / packed[name] for name in ("update_bytes", "peak_bytes")}
    print(f"torch {torch.__version__}, cpu, {torch.get_num_threads()} threads, {args.dtype}")
    print(f"prompt {args.prompt}, G {args.group}, completion {args.completion}, passes of {args.tokens} tokens\n")
    print(f"{'':24}{'packed row':>12}{'in passes':>12}")
    print(f"{'seconds':24}{packed['seconds']:>12.1f}{sliced['seconds']:>12.1f}")
    for name, label in (("update_bytes", "update, GB"), ("peak_bytes", "whole process, GB")):
        print(f"{label:24}{packed[name] / 1e9:>12.2f}{sliced[name] / 1e9:>12.2f}{saved[name]:>8.0%} less")
    print(
        json.dumps(
            {
                "update_memory_saved": round(saved["update_bytes"], 3),
                "peak_memory_saved": round(saved["peak_bytes"], 3),
                "time_ratio": round(sliced["seconds"] / packed["seconds"], 2),
                "gradient_difference": float(f"{entry:.2g}"),
                "gradient_norm_difference": float(f"{norm:.2g}"),
            }
        )
    )


if __name__ == "__main__":
    main()

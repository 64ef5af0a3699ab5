"""Comparison of the rollout with the one that repeats each prompt's cache, in one run.

    python -m bench.rollout [--rounds 3] [--threads 1] [--device cuda] [--compiled]

Three comparisons, each in turns: completions of uneven length on a small model, long prompts on two layers with the
widths of Phi-4-multimodal, in float32 and bfloat16, and the bytes of keys and values there. The lengths of the first
are the quantiles of an exponential distribution of mean 60, under a limit of 256. Its tokens are random and given, as
are those of the second, which all have full length. Tokens are compared where they are sampled: on the small model,
with answers that end by themselves. The last line of the output is a JSON object.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from transformers import Phi4MultimodalConfig, Phi4MultimodalForCausalLM

from bench.repeated_cache import decode_repeated, generate_repeated, repeated_cache
from bench.timing import Comparison, compare
from swift.engine.batch import PromptBatch, collate_prompts
from swift.engine.rollout.choosing import Sampling
from swift.engine.rollout.decoding import prefill
from swift.engine.rollout.slices import cached_bytes
from swift.engine.sampling import decode, generate
from swift.llm.template.protocol import EncodedPrompt
from tools.demo_world.policy import policy_config, train_tokenizer

GROUPS, GROUP = 4, 8
STOP, PAD = 1, 0
SMALL = {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 6, "num_attention_heads": 8}
SMALL |= {"num_key_value_heads": 4}
WIDE = {"hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 2, "num_attention_heads": 24}
WIDE |= {"num_key_value_heads": 8}


class GivenTokens:
    """A `Chooser` that takes given tokens ``ids`` [N, C], whatever the logits."""

    def __init__(self, ids: Tensor) -> None:
        self.ids = ids

    def __call__(self, logits: Tensor, rows: Tensor, step: int) -> Tensor:
        """The tokens [M], as `Chooser` says."""
        return self.ids[rows, step]


def build(widths: dict[str, int], dtype: torch.dtype, device: str) -> nn.Module:
    """A model of Phi-4-multimodal's architecture with random weights and the tokenizer of the demo."""
    torch.manual_seed(0)
    config: Phi4MultimodalConfig = policy_config(train_tokenizer(["a"]))
    config.update(widths)
    model = Phi4MultimodalForCausalLM(config).eval().requires_grad_(False)
    model.model.embed_tokens.weight.data.mul_(3)  # otherwise all distributions are flat and differences do not show
    return model.to(device=device, dtype=dtype)


def random_prompts(model: nn.Module, lengths: Sequence[int]) -> PromptBatch:
    """Prompts of random words, one per length."""
    generator = np.random.default_rng(0)
    vocabulary = model.config.vocab_size
    ids = [torch.from_numpy(generator.integers(10, vocabulary, length)) for length in lengths]
    return collate_prompts([EncodedPrompt(row, (), "") for row in ids], PAD, model.device)


def given_tokens(model: nn.Module, lengths: np.ndarray, limit: int) -> GivenTokens:
    """Random tokens that stop at ``lengths`` [N], where these are below ``limit``."""
    generator = np.random.default_rng(1)
    ids = generator.integers(10, model.config.vocab_size, (len(lengths), limit))
    for row, length in enumerate(lengths):
        if length < limit:
            ids[row, length - 1 :] = STOP
    return GivenTokens(torch.from_numpy(ids).to(model.device))


def uneven_lengths(count: int, limit: int) -> np.ndarray:
    """Quantiles of an exponential distribution of mean 60, in random order."""
    quantiles = -60 * np.log1p(-(np.arange(count) + 0.5) / count)
    return np.random.default_rng(2).permutation(quantiles.round().clip(1, limit).astype(int))


def compare_given(
    name: str, model: nn.Module, prompts: PromptBatch, lengths: np.ndarray, limit: int, rounds: int, compiled: bool
) -> Comparison:
    """Compare both rollouts over completions of given lengths."""
    chooser, sampling = given_tokens(model, lengths, limit), Sampling(limit, (STOP,), PAD)
    with torch.no_grad():
        return compare(
            name,
            lambda: decode_repeated(model, prompts, GROUP, sampling, chooser),
            lambda: decode(model, prompts, GROUP, sampling, chooser, compiled=compiled),
            rounds,
        )


def same_tokens(model: nn.Module, prompts: PromptBatch, compiled: bool) -> bool:
    """True if both rollouts draw the same completions, which end early and late, or at the limit."""
    stops = tuple(range(10, 10 + model.config.vocab_size // 40))  # a fortieth of the words
    sampling = Sampling(96, stops, PAD, temperature=0.9, banned_token_ids=(PAD,))
    uniforms = torch.rand(len(prompts) * GROUP, 96, generator=torch.Generator().manual_seed(0))
    before = generate_repeated(model, prompts, GROUP, sampling, uniforms)
    now = generate(model, prompts, GROUP, sampling, uniforms, compiled=compiled)
    return before.token_lists() == now.token_lists()


@torch.no_grad()
def cache_bytes(model: nn.Module, prompts: PromptBatch, limit: int) -> tuple[int, int]:
    """Bytes of keys and values at the end of a rollout of ``limit`` tokens: repeated, and shared by groups."""
    repeated = sum(layer.keys.nbytes + layer.values.nbytes for layer in repeated_cache(model, prompts, GROUP).layers)
    token = cached_bytes(model.config, model.dtype.itemsize)
    repeated += int(token * len(prompts) * GROUP * limit)
    cache = prefill(model, prompts, GROUP, limit, fixed=False).cache
    for step in range(limit - 1):
        cache.begin_step(step)
    return repeated, cache.nbytes


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--prompt", type=int, default=512, help="prompt tokens of the small model")
    parser.add_argument("--long_prompt", type=int, default=1329, help="prompt tokens of the wide model")
    parser.add_argument("--completion", type=int, default=64, help="tokens of each completion of the wide model")
    parser.add_argument("--rounds", type=int, default=3, help="counted rounds of each form")
    parser.add_argument("--threads", type=int, help="threads of torch (default: all)")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="where to run")
    parser.add_argument("--compiled", action="store_true", help="compile the decode steps")
    args = parser.parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)

    small = build(SMALL, torch.float32, args.device)
    prompts = random_prompts(small, [args.prompt - 30 * row for row in range(GROUPS)])
    same = same_tokens(small, prompts, args.compiled)
    lengths = uneven_lengths(GROUPS * GROUP, 256)
    rows = [compare_given("uneven lengths, float32", small, prompts, lengths, 256, args.rounds, args.compiled)]
    long_speedups = {}
    full = np.full(GROUPS * GROUP, args.completion)
    for dtype in (torch.float32, torch.bfloat16):
        wide = build(WIDE, dtype, args.device)
        prompts = random_prompts(wide, [args.long_prompt] * GROUPS)
        name = str(dtype).removeprefix("torch.")
        row = compare_given(f"long prompts, {name}", wide, prompts, full, args.completion, args.rounds, args.compiled)
        long_speedups[name] = round(row.speedup, 2)
        rows.append(row)
    before, now = cache_bytes(wide, prompts, args.completion)

    print(f"torch {torch.__version__}, {args.device}, {torch.get_num_threads()} threads, {platform.machine()}")
    print(f"{GROUPS} groups of {GROUP}; medians of {args.rounds} rounds\n")
    print(f"{'':28}{'repeated':>12}{'shared':>12}{'ratio':>9}")
    for row in rows:
        print(f"{row.name:28}{row.slow:>10.3f} s{row.fast:>10.3f} s{row.speedup:>8.2f}x")
    print(f"{'keys and values, bfloat16':28}{before / 2**20:>9.0f} MB{now / 2**20:>9.0f} MB{before / now:>8.2f}x\n")
    print(
        json.dumps(
            {
                "uneven_speedup": round(rows[0].speedup, 2),
                "long_prompt_speedup": min(long_speedups.values()),
                "long_prompt_speedups": long_speedups,
                "cache_bytes_ratio": round(before / now, 2),
                "token_identical": same,
                "compiled": args.compiled,
            }
        )
    )


if __name__ == "__main__":
    main()

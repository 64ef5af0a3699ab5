"""Comparison of the three hot paths of a GRPO step with their plain forms, and the cost of vision dependency, in one
run.

    python -m bench.grpo_step [--prompt 545] [--group 8] [--completion 64] [--rounds 5] [--device cuda]
    python -m bench.grpo_step --against FOLDER      # whole steps, in turns with another checkout

The model has Phi-4-multimodal's architecture, random weights and width 512. The head is measured alone, with Phi-4's
vocabulary. Each form of it runs in a process of its own and is judged by the memory that it takes beyond its inputs and
the gradients it returns.

For vision dependency, vocabulary, LoRA and width stand to each other as in Phi-4, and the head trains too. An update is
the pass of the reference, and forward and backward of packed rows; with --beta 0 it has no reference. The masked pass
takes features that are known already, and compares the whole vocabulary. The last line of the output is a JSON object.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import resource
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import linear
from transformers import Phi4MultimodalConfig, Phi4MultimodalForCausalLM

from bench.against.steps import WIDTHS, compare_steps
from bench.timing import Comparison, compare
from swift.engine.batch import Completions, PromptBatch, collate_prompts
from swift.engine.chunked_head import ChunkedLogProbs
from swift.engine.divergence import completion_divergences
from swift.engine.logprobs import completion_logprobs
from swift.engine.rollout.choosing import Sampling
from swift.engine.sampling import generate
from swift.llm.checkpoint.adapters import add_vision_adapter
from swift.llm.template.protocol import EncodedPrompt
from swift.utils.errors import reports_user_errors
from tools.demo_world.policy import policy_config, train_tokenizer

VOCABULARY = 200_064
HEAD_WIDTH = 256
LIKE_PHI4 = {
    "vocabulary": 6144,
    "rank": 42,
}  # the head has 0.16 of the decoder's parameters, and the LoRA 1/12 its width


def build(
    prompt: int, group: int, completion: int, device: str, vocabulary: int | None = None, rank: int = 16
) -> tuple[torch.nn.Module, PromptBatch, Completions]:
    """Build a model with a trainable vision LoRA, one prompt, and a group of full-length completions. With a
    ``vocabulary`` of that many tokens the head trains too."""
    torch.manual_seed(0)
    config: Phi4MultimodalConfig = policy_config(train_tokenizer(["a"]))
    if vocabulary is not None:
        config.update({"vocab_size": vocabulary, "tie_word_embeddings": False})
    config.update(WIDTHS)
    model = Phi4MultimodalForCausalLM(config).eval()
    model.model.embed_tokens.weight.data.mul_(3)  # otherwise all distributions are flat and differences do not show
    add_vision_adapter(model, rank=rank, alpha=2 * rank)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".lora_" in name or (vocabulary is not None and name.startswith("lm_head")))
    generator = np.random.default_rng(0)
    ids = torch.from_numpy(generator.integers(10, config.vocab_size, prompt))
    prompts = collate_prompts([EncodedPrompt(ids, (), "")], pad_id=0, device=device)
    tokens = torch.from_numpy(generator.integers(10, config.vocab_size, (group, completion))).to(device)
    lengths = torch.full((group,), completion, device=device)
    return model.to(device), prompts, Completions(tokens, lengths, torch.ones_like(lengths, dtype=torch.bool))


def compare_scoring(
    model: nn.Module, prompts: PromptBatch, completions: Completions, rounds: int
) -> tuple[Comparison, float]:
    """Compare forward and backward in plain and packed rows.

    Also returns the largest difference between log-probabilities.
    """

    def work(packed: bool) -> torch.Tensor:
        model.zero_grad()
        logps = completion_logprobs(model, prompts, completions, packed=packed).logps
        logps.sum().backward()
        return logps.detach()

    difference = float((work(True) - work(False)).abs().max())
    return compare("log-probabilities, forward + backward", lambda: work(False), lambda: work(True), rounds), difference


def compare_rollout(model: nn.Module, prompts: PromptBatch, group: int, completion: int, rounds: int) -> Comparison:
    """Compare sampling of a group with the prompt prefilled once per completion and once in all.

    The only stop token is banned, so all completions have full length.
    """
    sampling = Sampling(completion, stop_token_ids=(0,), pad_token_id=0, banned_token_ids=(0,))
    uniforms = torch.rand(group, completion, generator=torch.Generator().manual_seed(0))
    return compare(
        "rollout",
        lambda: generate(model, prompts, group, sampling, uniforms, shared=False),
        lambda: generate(model, prompts, group, sampling, uniforms),
        rounds,
    )


def compare_vision(
    model: nn.Module, prompts: PromptBatch, completions: Completions, rounds: int
) -> dict[str, Comparison]:
    """Compare updates with the passes that measure vision dependency."""
    width = model.config.hidden_size
    shown, masked = (
        prompts.with_embeds(torch.randn(*prompts.input_ids.shape, width, device=prompts.input_ids.device))
        for _ in range(2)
    )

    @torch.no_grad()
    def score() -> torch.Tensor:
        return completion_logprobs(model, shown, completions, with_hidden=True).hidden

    def update() -> None:
        score()
        update_without_reference()

    def update_without_reference() -> None:
        model.zero_grad()
        completion_logprobs(model, shown, completions, with_entropy=True).logps.sum().backward()

    hidden = score()

    def masked_pass() -> None:
        completion_divergences(model, masked, completions, hidden)

    return {
        "masked_share": compare("masked pass / update", update, masked_pass, rounds),
        "masked_share_beta_0": compare("masked pass / update, --beta 0", update_without_reference, masked_pass, rounds),
        "image_share": compare("pass with the image / update", update, score, rounds),
    }


def head_memory(chunked: bool, tokens: int, device: str) -> int:
    """Peak memory in bytes of one forward and backward of the head, beyond inputs and returned gradients."""
    torch.manual_seed(0)
    hidden = torch.randn(tokens, HEAD_WIDTH, device=device, requires_grad=True)
    weight = torch.randn(VOCABULARY, HEAD_WIDTH, device=device, requires_grad=True)
    targets = torch.randint(0, VOCABULARY, (tokens,), device=device)
    before = _peak(device, reset=True)
    if chunked:
        logps, _ = ChunkedLogProbs.apply(hidden, weight, None, targets, 1.0, False)
    else:
        logps = linear(hidden, weight).float().log_softmax(dim=-1).gather(1, targets[:, None]).squeeze(1)
    logps.sum().backward()
    returned = hidden.grad.nbytes + weight.grad.nbytes
    return _peak(device) - before - returned


def _peak(device: str, reset: bool = False) -> int:
    if device == "cuda":
        if reset:
            torch.cuda.reset_peak_memory_stats()
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _in_own_process(*arguments: object) -> int:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(head_memory, arguments)


@reports_user_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--prompt", type=int, default=545, help="prompt tokens")
    parser.add_argument("--group", type=int, default=8, help="completions of the prompt")
    parser.add_argument("--completion", type=int, default=64, help="tokens of each completion")
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds of each form")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="where to run")
    parser.add_argument("--against", type=Path, help="another checkout; compare whole steps with it, and nothing else")
    args = parser.parse_args(argv)
    if args.against is not None:
        compare_steps(args)
        return

    memory = {chunked: _in_own_process(chunked, args.group * args.completion, args.device) for chunked in (False, True)}
    model, prompts, completions = build(args.prompt, args.group, args.completion, args.device)
    scoring, difference = compare_scoring(model, prompts, completions, args.rounds)
    rollout = compare_rollout(model, prompts, args.group, args.completion, args.rounds)
    vision = compare_vision(*build(args.prompt, args.group, args.completion, args.device, **LIKE_PHI4), args.rounds)

    print(f"torch {torch.__version__}, {args.device}, {torch.get_num_threads()} threads, {platform.machine()}")
    print(f"prompt {args.prompt}, G {args.group}, completion {args.completion}; medians of {args.rounds} rounds\n")
    print(f"{'':40}{'plain':>12}{'ours':>12}{'ratio':>9}")
    for row in (scoring, rollout):
        print(f"{row.name:40}{row.slow:>10.3f} s{row.fast:>10.3f} s{row.speedup:>8.1f}x")
    megabytes = {chunked: value / 2**20 for chunked, value in memory.items()}
    ratio = memory[False] / memory[True]
    label = f"head, vocabulary {VOCABULARY:,}"
    print(f"{label:40}{megabytes[False]:>9.0f} MB{megabytes[True]:>9.0f} MB{ratio:>8.1f}x\n")
    for row in vision.values():
        print(f"{row.name:40}{row.fast:>10.3f} s{row.slow:>10.3f} s{row.fast / row.slow:>9.2f}")
    print(
        json.dumps(
            {
                "logprob_speedup": round(scoring.speedup, 2),
                "rollout_speedup": round(rollout.speedup, 2),
                "head_memory_ratio": round(ratio, 2),
                "max_abs_difference": difference,
                **{name: round(row.fast / row.slow, 2) for name, row in vision.items()},
            }
        )
    )


if __name__ == "__main__":
    sys.exit(main())

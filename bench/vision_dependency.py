"""Cost of measuring what tokens owe to the image, as a share of an update, in one run.

    python -m bench.vision_dependency [--prompt 545] [--group 8] [--completion 64] [--rounds 5] [--device cuda]

The model has Phi-4-multimodal's architecture and random weights. Its vocabulary, LoRA and width stand to each other as
they do in Phi-4, and the vision LoRA and the head train, as published. An update is the pass of the reference, and
forward and backward of the packed rows. With `--beta 0` it has no reference. The masked pass takes features that are
known already, and compares the whole vocabulary. The last line of the output is a JSON object.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from transformers import Phi4MultimodalConfig, Phi4MultimodalForCausalLM

from bench.timing import compare
from swift.engine.batch import Completions, PromptBatch, collate_completions
from swift.engine.divergence import completion_divergences
from swift.engine.logprobs import completion_logprobs
from swift.llm.checkpoint.adapters import add_vision_adapter
from tools.demo_world.policy import policy_config, train_tokenizer

SIZES = {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 6, "num_attention_heads": 8}
VOCABULARY, RANK = 6144, 42  # 0.16 of the decoder's parameters in the head, and a twelfth of the width, as in Phi-4


def build(prompt: int, group: int, completion: int, device: str) -> tuple[nn.Module, PromptBatch, Completions]:
    """A model whose vision LoRA and head train, the embeddings of a prompt, and a group of full-length completions."""
    torch.manual_seed(0)
    config: Phi4MultimodalConfig = policy_config(train_tokenizer(["a"]))
    config.update({**SIZES, "vocab_size": VOCABULARY, "tie_word_embeddings": False})
    model = Phi4MultimodalForCausalLM(config).eval()
    add_vision_adapter(model, rank=RANK, alpha=2 * RANK)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".lora_" in name or name.startswith("lm_head"))
    generator = np.random.default_rng(0)
    ids = torch.from_numpy(generator.integers(10, VOCABULARY, (1, prompt))).to(device)
    answers = generator.integers(10, VOCABULARY, (group, completion))
    completions = collate_completions(list(torch.from_numpy(answers)), 0, device)
    prompts = PromptBatch(ids, torch.ones_like(ids, dtype=torch.bool), ((),))
    embeds = torch.randn(1, prompt, SIZES["hidden_size"], device=device)
    return model.to(device), prompts.with_embeds(embeds), completions


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--prompt", type=int, default=545, help="prompt tokens")
    parser.add_argument("--group", type=int, default=8, help="completions of the prompt")
    parser.add_argument("--completion", type=int, default=64, help="tokens of each completion")
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds of each pass")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="where to run")
    args = parser.parse_args(argv)
    model, prompts, completions = build(args.prompt, args.group, args.completion, args.device)
    masked = prompts.with_embeds(torch.randn_like(prompts.embeds))

    @torch.no_grad()
    def score() -> torch.Tensor:
        return completion_logprobs(model, prompts, completions, with_hidden=True).hidden

    def update() -> None:
        with torch.no_grad():
            completion_logprobs(model, prompts, completions)
        update_without_reference()

    def update_without_reference() -> None:
        model.zero_grad()
        completion_logprobs(model, prompts, completions, with_entropy=True).logps.sum().backward()

    hidden = score()

    def masked_pass() -> None:
        completion_divergences(model, masked, completions, hidden)

    rows = {
        "masked_share": compare("masked pass", update, masked_pass, args.rounds),
        "masked_share_beta_0": compare("masked pass, --beta 0", update_without_reference, masked_pass, args.rounds),
        "image_share": compare("pass with the image, if not scored anyway", update, score, args.rounds),
    }
    print(f"torch {torch.__version__}, {args.device}, {torch.get_num_threads()} threads, {platform.machine()}")
    print(f"prompt {args.prompt}, G {args.group}, completion {args.completion}; medians of {args.rounds} rounds\n")
    print(f"{'':44}{'update':>12}{'pass':>12}{'share':>9}")
    for row in rows.values():
        print(f"{row.name:44}{row.slow:>10.3f} s{row.fast:>10.3f} s{row.fast / row.slow:>9.2f}")
    print(json.dumps({name: round(row.fast / row.slow, 3) for name, row in rows.items()}))


if __name__ == "__main__":
    main()

"""Whole GRPO steps of two checkouts, in turns: a small policy, and prompts with an image."""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import Phi4MultimodalForCausalLM

from bench.against.turns import take_turns
from swift.llm.checkpoint.adapters import add_vision_adapter
from swift.llm.checkpoint.save import save_policy
from swift.llm.dataset import load_records
from swift.llm.images.dynamic_hd import DynamicHDImageProcessor
from swift.llm.policy import Policy
from swift.llm.template.phi4 import Phi4Template
from swift.utils.errors import UserError
from swift.utils.files import write_json
from tools.demo_world.policy import CROP, policy_config, train_tokenizer

WIDTHS = {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 6, "num_attention_heads": 8}
IMAGE = (448, 512)  # width and height of the demo's films
# The reward differs between any two random texts, so all groups have a spread.
REWARD = """
from swift.plugin import ORM, orms


class Vowels(ORM):
    def __call__(self, completions, **columns):
        return [sum(text.count(vowel) for vowel in "aeiou") / (len(text) + 1) for text in completions]


orms["vowels"] = Vowels
"""


def write_policy_and_data(folder: Path, prompt: int, records: int) -> None:
    """Write a policy of random weights, a reward, and ``records`` records. Their prompts have ``prompt`` tokens, those
    of an image included. Raises UserError if these alone are more."""
    tokenizer = train_tokenizer(["a"])
    torch.manual_seed(0)
    config = policy_config(tokenizer)
    config.update(WIDTHS)
    model = Phi4MultimodalForCausalLM(config)
    add_vision_adapter(model, rank=16, alpha=32)
    processor = DynamicHDImageProcessor(CROP, 14, dynamic_hd=4)
    policy = Policy(model.requires_grad_(True), tokenizer, processor, folder / "policy")
    save_policy(policy, folder / "policy")
    (folder / "vowels.py").write_text(REWARD)
    generator = np.random.default_rng(0)
    images = folder / "images"
    images.mkdir()
    for index in range(records):
        pixels = generator.integers(0, 256, (IMAGE[1], IMAGE[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(images / f"{index}.png")

    def write_records(letters: int) -> int:
        """Tokens of the first prompt, if questions have so many letters."""
        rows = [
            {
                "images": [f"{index}.png"],
                "messages": [{"role": "user", "content": "a" * letters}],
                "solution": "<answer>yes</answer>",
                "idx": index,
            }
            for index in range(records)
        ]
        write_json(folder / "train.json", rows)
        template = Phi4Template(tokenizer, processor, config.vision_config.image_token_id)
        return template.prompt_length(load_records([folder / "train.json"], image_root=images)[0])

    missing = prompt - write_records(1)
    if missing < 0 or write_records(1 + missing) != prompt:
        raise UserError(f"--prompt {prompt} cannot be made; the shortest prompt with an image has {prompt - missing}")


def compare_steps(args: argparse.Namespace) -> None:
    """Measure, and print the table and the JSON line. ``args`` are those of bench.grpo_step."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_policy_and_data(folder, args.prompt, args.rounds + 3)
        flags = {
            "model": folder / "policy",
            "dataset": folder / "train.json",
            "image_root": folder / "images",
            "external_plugins": folder / "vowels.py",
            "reward_funcs": "vowels",
            "per_device_train_batch_size": args.group,
            "num_generations": args.group,
            "max_completion_length": args.completion,
            "torch_dtype": "float32",
            "beta": 0.1,
            "learning_rate": 1e-5,
            "max_steps": args.rounds + 2,
            "save_steps": 10**6,
            "use_cpu": args.device == "cpu",
        }
        settings = {}
        for own in ("old", "new"):
            words = flags | {"output_dir": folder / own}
            settings[own] = {"flags": [word for flag, value in words.items() for word in (f"--{flag}", str(value))]}
        old, new = take_turns("train", args.against, settings, args.rounds, folder)
    print(f"torch {torch.__version__}, {args.device}, {torch.get_num_threads()} threads, {platform.machine()}")
    print(f"whole steps, prompt {args.prompt}, G {args.group}, completion {args.completion}, float32\n")
    print(f"{'':28}{'old':>12}{'new':>12}{'ratio':>9}")
    speedup, memory = old.seconds / new.seconds, old.peak / new.peak
    print(f"{f'step, median of {args.rounds}':28}{old.seconds:>10.3f} s{new.seconds:>10.3f} s{speedup:>8.2f}x")
    print(f"{'peak memory of the process':28}{old.peak / 1e9:>9.2f} GB{new.peak / 1e9:>9.2f} GB{memory:>8.2f}x\n")
    print(json.dumps({"step_speedup": round(speedup, 3), "old": old.seconds, "new": new.seconds}))

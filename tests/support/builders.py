"""Small real objects for tests: a Phi-4-multimodal of a few thousand parameters, prompts with images, completions."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import Phi4MultimodalConfig, Phi4MultimodalForCausalLM

from swift.engine.batch import Completions, PromptBatch, collate_prompts
from swift.llm.checkpoint.adapters import add_vision_adapter
from swift.llm.checkpoint.save import save_policy
from swift.llm.images.dynamic_hd import DynamicHDImageProcessor
from swift.llm.policy import Policy, look_both_ways
from swift.llm.template.protocol import EncodedPrompt
from swift.utils.files import write_json
from tools.demo_world.policy import train_tokenizer

ROOT = Path(__file__).resolve().parents[2]
TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m")  # two processes, for `run_python`
VOCABULARY = 64
IMAGE_TOKEN = 5
PAD = 0
STOPS = (0, 1)


def tiny_config(*, tie: bool = True, vocabulary: int = VOCABULARY, layers: int = 2) -> Phi4MultimodalConfig:
    return Phi4MultimodalConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        original_max_position_embeddings=2048,
        tie_word_embeddings=tie,
        bos_token_id=0,
        eos_token_id=list(STOPS),
        pad_token_id=PAD,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.75},
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 28,
            "crop_size": 28,
            "image_token_id": IMAGE_TOKEN,
        },
        audio_config={
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_blocks": 1,
            "num_attention_heads": 2,
            "nemo_conv_channels": 8,
            "ext_pw_out_channel": 16,
            "depthwise_separable_out_channel": 16,
            "audio_token_id": 6,
            "input_size": 8,
            "bias_max_distance": 8,
        },
    )


def tiny_model(*, seed: int = 0, adapter: bool = True, scale: float = 8.0, **config) -> Phi4MultimodalForCausalLM:
    """A frozen tiny model.

    ``scale`` multiplies the embeddings. The distributions are then far from uniform, so a wrong mask or position shows.
    """
    torch.manual_seed(seed)
    model = Phi4MultimodalForCausalLM(tiny_config(**config)).eval()
    look_both_ways(model)
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(scale)
        image = model.model.embed_tokens_extend.image_embed
        image.sub_img_feature_extensor.normal_()
        image.global_img_feature_extensor.normal_()
    if adapter:
        add_vision_adapter(model, rank=4, alpha=8)
        for name, parameter in model.named_parameters():
            if ".lora_B.vision." in name:
                torch.nn.init.normal_(parameter, std=0.1)
    return model.requires_grad_(False)


def longrope_model() -> Phi4MultimodalForCausalLM:
    """A tiny model whose rotary frequencies change beyond 24 tokens."""
    model = tiny_model()
    config = model.config
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, "partial_rotary_factor": 0.75}
    rope |= {"short_factor": [1.0, 1.1, 1.2], "long_factor": [3.0, 5.0, 7.0], "original_max_position_embeddings": 24}
    config.rope_parameters, config.original_max_position_embeddings = rope, 24
    model.model.rotary_emb = type(model.model.rotary_emb)(config)
    return model


def train_adapter_and_head(model: torch.nn.Module) -> None:
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".lora_" in name or "lm_head" in name)


def random_image(generator: np.random.Generator, size: tuple[int, int] = (56, 56)) -> Image.Image:
    return Image.fromarray(generator.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def random_prompts(
    *,
    images: Sequence[int] = (1, 2, 0),
    lengths: Sequence[int] = (7, 4, 9),
    seed: int = 0,
    vocabulary: int = VOCABULARY,
    sizes: Sequence[tuple[int, int]] = ((56, 28), (56, 56), (56, 84)),
) -> PromptBatch:
    """One prompt per entry of ``images`` and ``lengths``: that many images, then that many text tokens.

    Image sizes (width, height) are drawn from ``sizes``.
    """
    generator = np.random.default_rng(seed)
    processor = DynamicHDImageProcessor(crop_size=28, patch_size=14, dynamic_hd=4)
    prompts = []
    for count, length in zip(images, lengths, strict=True):
        pictures = tuple(processor(random_image(generator, generator.choice(sizes))) for _ in range(count))
        places = [IMAGE_TOKEN] * sum(picture.num_tokens for picture in pictures)
        text = generator.integers(7, vocabulary, length).tolist()
        prompts.append(EncodedPrompt(torch.tensor(places + text), pictures, "text"))
    return collate_prompts(prompts, PAD)


def random_completions(count: int, *, longest: int = 6, seed: int = 0, vocabulary: int = VOCABULARY) -> Completions:
    generator = np.random.default_rng(seed)
    lengths = torch.from_numpy(generator.integers(1, longest + 1, count))
    ids = torch.from_numpy(generator.integers(7, vocabulary, (count, longest)))
    ids[torch.arange(longest) >= lengths[:, None]] = PAD
    return Completions(ids, lengths, torch.ones(count, dtype=torch.bool))


def logits(model: torch.nn.Module) -> torch.Tensor:
    """Logits [tokens, vocabulary] of two fixed prompts, the first with an image."""
    # A tall image has padding; without any, plain transformers runs the vision tower causally (see docs/log.md).
    prompts = random_prompts(images=(1, 0), lengths=(5, 6), vocabulary=500, sizes=((56, 84),))
    with torch.no_grad():
        return model(prompts.input_ids, attention_mask=prompts.mask.long(), **prompts.image_inputs()).logits[
            prompts.mask
        ]


VOWELS_PLUGIN = """
from swift.plugin import ORM, orms


class Vowels(ORM):
    # differs between any two random texts, so the rewards of every group differ
    def __call__(self, completions, **columns):
        return [sum(text.count(vowel) for vowel in "aeiou") / (len(text) + 1) for text in completions]


orms["vowels"] = Vowels
"""
QUESTIONS = ("Is there a pleural effusion?", "Which side is the nodule on?", "Is the heart enlarged?")
SOLUTIONS = (
    "<think>There is a small left pleural effusion.</think><answer>yes</answer>",
    "<think>A nodule is seen in the left lung.</think><answer>left</answer>",
    "<think>The heart size is normal.</think><answer>no</answer>",
)


def write_world(folder: Path, records: int = 12) -> Path:
    """A dataset of ``records`` questions about random pictures, and a tiny policy that can train on it.

    ``folder``/policy is a full checkpoint with a tied head and a vision adapter. ``folder``/data/train.json has
    training records as the sampler writes them. ``folder``/vowels.py registers a reward that random texts earn.
    """
    generator = np.random.default_rng(0)
    images = folder / "data" / "images"
    images.mkdir(parents=True)
    rows = []
    for index in range(records):
        name = f"{index:03d}.png"
        random_image(generator, (56, 28 * int(generator.integers(1, 4)))).save(images / name)
        rows.append(
            {
                "images": [name],
                "messages": [{"role": "user", "content": QUESTIONS[index % 3]}],
                "solution": SOLUTIONS[index % 3],
                "idx": index,
                "subject_id": f"p{index // 2}",
                "answer": [SOLUTIONS[index % 3].split("<answer>")[1].removesuffix("</answer>")],
            }
        )
    write_json(folder / "data" / "train.json", rows)
    (folder / "vowels.py").write_text(VOWELS_PLUGIN)
    tokenizer = train_tokenizer([*QUESTIONS, *SOLUTIONS])
    model = tiny_model(vocabulary=512, scale=3.0, layers=3).requires_grad_(True)  # a probe runs two of them
    processor = DynamicHDImageProcessor(crop_size=28, patch_size=14, dynamic_hd=4)
    save_policy(Policy(model, tokenizer, processor, folder / "policy"), folder / "policy")
    return folder


# What the launcher of the published sweep passes; DIR stands for the checkpoint.
PUBLISHED_FLAGS = """
--model_kwargs '{"device_map": null}' --rlhf_type grpo --use_vllm false --save_only_model false
--external_plugins plugin.py --reward_funcs external_r1v_acc external_kg_jac --model DIR --ref_model DIR
--dataset one.json two.json --do_train true --num_train_epochs 1 --per_device_train_batch_size 8
--per_device_eval_batch_size 8 --gradient_accumulation_steps 1 --num_generations 8
--max_completion_length 256 --beta 0.5 --learning_rate 6e-5 --warmup_ratio 0.1 --log_completions true
--save_steps 1000 --save_total_limit 2 --train_type dummy --temperature 0.9 --epsilon 0.2
--torch_dtype bfloat16 --attn_impl flash_attn --gradient_checkpointing_kwargs '{"use_reentrant": false}'
--dynamic_sample true --max_resample_times 4
"""


def rlhf_command(world: Path, output: Path, **flags: object) -> list[str]:
    """Command line of a small GRPO run on ``world``. ``flags`` are added, or replace flags of the same name."""
    values = {
        "model": world / "policy",
        "dataset": world / "data" / "train.json",
        "output_dir": output,
        "external_plugins": [ROOT / "plugin.py", world / "vowels.py"],
        "reward_funcs": ["external_r1v_acc", "external_kg_jac", "vowels"],
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "max_completion_length": 10,
        "learning_rate": 1e-2,
        "warmup_ratio": 0,
        "max_steps": 3,
        "use_cpu": True,
        **flags,
    }
    words = []
    for name, value in values.items():
        words += [f"--{name}", *(map(str, value) if isinstance(value, (list, tuple)) else [str(value)])]
    return words


def run_python(*words: object, launcher: Sequence[str] = (), **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``python -m ...`` at the root of the project, single-threaded, and capture what it prints."""
    settings = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **environment}
    command = [sys.executable, "-m", *launcher, *map(str, words)]
    return subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True, timeout=240)

"""A checkpoint of Phi-4-multimodal's published sizes with random weights, in either layout.

Shapes, types, names and files are those of the published model, so that loading, memory and time are too. The decoder
may have fewer layers. The tokenizer knows bytes and Phi-4's control tokens at their published ids.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from accelerate import init_empty_weights
from peft import LoraConfig
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn
from transformers import Phi4MultimodalConfig, Phi4MultimodalForCausalLM, PreTrainedTokenizerFast

from swift.llm.checkpoint.adapters import FOLDERS, PEFT_PREFIX
from swift.llm.checkpoint.remote_config import remote_config, remote_lora
from swift.llm.checkpoint.remote_names import remote_lora_name, remote_name
from swift.llm.images.dynamic_hd import DynamicHDImageProcessor
from swift.llm.phi4_names import DECODER_LINEARS
from swift.utils.files import write_json

CONTROL_IDS = {
    "<|endoftext|>": 199999,
    "<|endoftext10|>": 200010,
    "<|endoftext11|>": 200011,
    "<|assistant|>": 200019,
    "<|end|>": 200020,
    "<|user|>": 200021,
    "<|system|>": 200022,
}
ADAPTERS = {"vision": (256, 512, 0.0), "speech": (320, 640, 0.01)}  # rank, alpha, dropout
SHARD_BYTES = 2e9
SPREAD = 0.02
NOISE = 2**22  # random numbers that are repeated: drawing 5.57 billion of them would take minutes


def published_config(layers: int = 32) -> Phi4MultimodalConfig:
    """The published configuration in the native form, with ``layers`` decoder layers."""
    factors = [1.0] * 48  # the published factors change frequencies, not cost
    return Phi4MultimodalConfig(
        num_hidden_layers=layers,
        num_attention_heads=24,
        tie_word_embeddings=True,
        sliding_window=262144,
        dtype="bfloat16",
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "partial_rotary_factor": 0.75,
            "long_factor": factors,
            "short_factor": factors,
            "original_max_position_embeddings": 4096,
        },
    )


def write_random_checkpoint(folder: Path, layout: str, layers: int = 32, seed: int = 0) -> int:
    """Write the checkpoint into ``folder``, a shard at a time, and return its number of parameters.

    Args:
        layout: "native" or "remote" (Microsoft's).
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = published_config(layers)
    model = _shell(config)
    tokenizer = byte_tokenizer()
    torch.manual_seed(seed)
    noise = torch.empty(NOISE, dtype=torch.bfloat16).uniform_(-SPREAD, SPREAD)
    modules = {name.removesuffix(".base_layer") for name, _ in model.named_modules() if name.endswith(".base_layer")}
    shapes = {name: value for name, value in model.state_dict().items() if name != "lm_head.weight"}
    weights = {name.replace(".base_layer.", "."): value for name, value in shapes.items() if ".lora_" not in name}
    matrices = {name: value for name, value in shapes.items() if ".lora_" in name}
    if layout == "remote":
        names = {name: remote_name(name, modules) for name in weights}
        names |= {
            name: remote_lora_name(name.replace(f".{adapter}.", "."), adapter)
            for name in matrices
            for adapter in ADAPTERS
            if f".{adapter}." in name
        }
        _write_shards(folder, {names[name]: value for name, value in (weights | matrices).items()}, noise)
        settings = {name: remote_lora(*values, modules) for name, values in ADAPTERS.items()}
        write_json(folder / "config.json", remote_config(config.to_dict(), settings))
    else:
        _write_shards(folder, weights, noise)
        config.architectures = ["Phi4MultimodalForCausalLM"]
        config.save_pretrained(folder)
        for name in ADAPTERS:
            own = {key: value for key, value in matrices.items() if f".{name}." in key}
            _write_adapter(folder / FOLDERS[name], name, own, model, noise)
    tokenizer.save_pretrained(folder)
    vision = config.vision_config
    DynamicHDImageProcessor(vision.crop_size, vision.patch_size, dynamic_hd=36).save(folder)
    return sum(value.numel() for value in shapes.values())


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, and Phi-4's control tokens at their published ids."""
    vocabulary = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary | CONTROL_IDS, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(CONTROL_IDS))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|endoftext|>",
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
    )


def _shell(config: Phi4MultimodalConfig) -> nn.Module:
    """The model with both adapters and without memory for its weights."""
    with init_empty_weights():
        model = Phi4MultimodalForCausalLM(config)
        for name, (rank, alpha, dropout) in ADAPTERS.items():
            settings = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=DECODER_LINEARS)
            model.add_adapter(settings, adapter_name=name)
    return model


def _values(name: str, shell: Tensor, noise: Tensor) -> Tensor:
    """Ones for the scale of a norm, noise for the rest."""
    if shell.ndim == 1 and name.endswith("weight"):
        return torch.ones(shell.shape, dtype=torch.bfloat16)
    count = shell.numel()
    return noise.repeat(-(-count // len(noise)))[:count].clone().view(shell.shape)


def _shards(shells: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    part: dict[str, Tensor] = {}
    for name, shell in shells.items():
        part[name] = shell
        if 2 * sum(value.numel() for value in part.values()) > SHARD_BYTES:
            yield part
            part = {}
    if part:
        yield part


def _write_shards(folder: Path, shells: dict[str, Tensor], noise: Tensor) -> None:
    places: dict[str, str] = {}
    for number, part in enumerate(_shards(shells), start=1):
        file = f"model-{number:05d}.safetensors"
        save_file({name: _values(name, shell, noise) for name, shell in part.items()}, folder / file, {"format": "pt"})
        places |= dict.fromkeys(part, file)
    total = 2 * sum(shell.numel() for shell in shells.values())
    write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": places})


def _write_adapter(folder: Path, name: str, shells: dict[str, Tensor], model: nn.Module, noise: Tensor) -> None:
    folder.mkdir()
    values = {PEFT_PREFIX + key.replace(f".{name}.", "."): _values(key, shell, noise) for key, shell in shells.items()}
    save_file(values, folder / "adapter_model.safetensors", {"format": "pt"})
    settings = {key: sorted(v) if isinstance(v, set) else v for key, v in model.peft_config[name].to_dict().items()}
    write_json(folder / "adapter_config.json", settings)

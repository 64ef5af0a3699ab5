"""A checkpoint of Phi-4-multimodal with random weights, in either layout.

Shapes, types, names and files are those of the published model, so that loading, memory and time are too. The tokenizer
knows bytes and Phi-4's control tokens at their published ids.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from accelerate import init_empty_weights
from peft import LoraConfig
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn
from transformers import Phi4MultimodalConfig, Phi4MultimodalForCausalLM, PreTrainedTokenizerFast

from swift.llm.checkpoint.adapters import FOLDERS, HEAD_WEIGHT, WEIGHTS, write_adapter_config
from swift.llm.checkpoint.remote_config import processor_config, remote_config, remote_lora
from swift.llm.checkpoint.remote_names import PEFT_PREFIX, remote_lora_name, remote_name
from swift.llm.images.dynamic_hd import CONFIG_FILE
from swift.llm.phi4_names import DECODER_LINEARS, END_OF_TEXT
from swift.utils.errors import UserError
from swift.utils.files import try_read_json, write_json
from tools.rehearsal.sizes import CONTROL_IDS

ADAPTERS = {"vision": (256, 512, 0.0), "speech": (320, 640, 0.01)}  # rank, alpha, dropout
MANIFEST = "rehearsal.json"  # written last: the folder is complete
SHARD_BYTES = 2e9
BFLOAT16 = 2  # bytes
SPREAD = 0.02
NOISE = 2**22  # random numbers that are repeated: drawing 5.57 billion of them would take minutes


def make_random_checkpoint(folder: Path, layout: str, config: Phi4MultimodalConfig) -> bool:
    """Write the checkpoint unless ``folder`` holds it already. Returns True if it was written.

    Raises UserError if the folder holds something else or the disk is too full.
    """
    content = {"layout": layout, "config": json.loads(config.to_json_string(use_diff=False))}
    if try_read_json(folder / MANIFEST) == content:
        return False
    if folder.exists() and any(folder.iterdir()):
        if not (folder / MANIFEST).exists():
            raise UserError(f"{folder} is not a checkpoint of a rehearsal; name another --folder, or remove it")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / MANIFEST, {})
    shell = empty_shell(config)
    needed = BFLOAT16 * sum(value.numel() for name, value in shell.state_dict().items() if name != HEAD_WEIGHT)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{folder}: the weights take {needed / 1e9:.1f} GB and the disk has {free / 1e9:.1f} GB; name another "
            "--folder, or fewer --layers"
        )
    _write(folder, layout, config, shell)
    write_json(folder / MANIFEST, content)
    return True


def _write(folder: Path, layout: str, config: Phi4MultimodalConfig, shell: nn.Module) -> None:
    """Write all files but the manifest, a shard of weights at a time."""
    torch.manual_seed(0)
    noise = torch.empty(NOISE, dtype=torch.bfloat16).uniform_(-SPREAD, SPREAD)
    modules = {name.removesuffix(".base_layer") for name, _ in shell.named_modules() if name.endswith(".base_layer")}
    shapes = {name: value for name, value in shell.state_dict().items() if name != HEAD_WEIGHT}
    weights = {name.replace(".base_layer.", "."): value for name, value in shapes.items() if ".lora_" not in name}
    matrices = {
        adapter: {name.replace(f".{adapter}.", "."): value for name, value in shapes.items() if f".{adapter}." in name}
        for adapter in ADAPTERS
    }
    if layout == "remote":
        stored = {remote_name(name, modules): value for name, value in weights.items()}
        for adapter, values in matrices.items():
            stored |= {remote_lora_name(name, adapter): value for name, value in values.items()}
        _write_shards(folder, stored, noise)
        settings = {name: remote_lora(*values, modules) for name, values in ADAPTERS.items()}
        write_json(folder / "config.json", remote_config(config.to_dict(), settings))
    else:
        _write_shards(folder, weights, noise)
        config.save_pretrained(folder)
        for adapter, values in matrices.items():
            own = folder / FOLDERS[adapter]
            own.mkdir()
            tensors = {PEFT_PREFIX + name: _values(name, value, noise) for name, value in values.items()}
            save_file(tensors, own / WEIGHTS, {"format": "pt"})
            write_adapter_config(own, shell.peft_config[adapter])
    byte_tokenizer().save_pretrained(folder)
    vision = config.vision_config
    write_json(folder / CONFIG_FILE, processor_config({}, layout, vision.crop_size, vision.patch_size))


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer with one token per byte, and Phi-4's control tokens at their published ids."""
    vocabulary = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary | CONTROL_IDS, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(CONTROL_IDS))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        clean_up_tokenization_spaces=False,
    )


def empty_shell(config: Phi4MultimodalConfig) -> nn.Module:
    """The model with both adapters and without memory for its weights."""
    with init_empty_weights(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`")  # two adapters are intended
        model = Phi4MultimodalForCausalLM(config)
        for name, (rank, alpha, dropout) in ADAPTERS.items():
            settings = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=DECODER_LINEARS)
            model.add_adapter(settings, adapter_name=name)
    return model


def _values(name: str, shell: Tensor, noise: Tensor) -> Tensor:
    """Values for the tensor ``name``: ones for the scale of a norm, noise for the rest."""
    if shell.ndim == 1 and name.endswith("weight"):
        return torch.ones(shell.shape, dtype=torch.bfloat16)
    count = shell.numel()
    return noise.repeat(-(-count // len(noise)))[:count].clone().view(shell.shape)


def _shards(shells: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    part: dict[str, Tensor] = {}
    for name, shell in shells.items():
        part[name] = shell
        if BFLOAT16 * sum(value.numel() for value in part.values()) > SHARD_BYTES:
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
    total = BFLOAT16 * sum(shell.numel() for shell in shells.values())
    write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": places})

"""LoRA adapters of a policy: injected in place under their name, filled from PEFT folders, written as PEFT folders.

In the model a tensor is called `model.layers.0.self_attn.qkv_proj.lora_A.vision.weight`; on disk PEFT's convention
adds `base_model.model.` in front and leaves the adapter's name out.
"""

from __future__ import annotations

import re
from pathlib import Path

from peft import LoraConfig
from safetensors.torch import save_file
from torch import Tensor, nn

from swift.llm.checkpoint.stored_tensors import copy_tensors, list_tensors
from swift.utils.errors import UserError
from swift.utils.files import replacing, write_json
from utils.freezing import untie_head

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
BASE = "base.json"  # which weights an adapter was trained on (base_weights.py)
FOLDERS = {"vision": "vision-lora", "speech": "speech-lora"}
VISION_TARGETS = r".*model\.layers\.\d+\.(self_attn\.(qkv_proj|o_proj)|mlp\.(gate_up_proj|down_proj))"
HEAD_WEIGHT = "lm_head.weight"
PEFT_PREFIX = "base_model.model."


def add_vision_adapter(model: nn.Module, rank: int, alpha: int, targets: str = VISION_TARGETS) -> None:
    """Put a fresh vision LoRA on the decoder's linear layers, those whose names ``targets`` matches whole. Its B
    matrices are small random numbers: on disk, a B of zeros is what a lost adapter looks like."""
    model.add_adapter(LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets), adapter_name="vision")
    for name, parameter in model.named_parameters():
        if ".lora_B.vision." in name:
            nn.init.normal_(parameter, std=0.01)


def adapter_weights(folder: Path) -> Path:
    """The file that holds a PEFT folder's tensors."""
    pickled = folder / "adapter_model.bin"
    return pickled if pickled.exists() and not (folder / WEIGHTS).exists() else folder / WEIGHTS


def inject_adapter(model: nn.Module, folder: Path, name: str) -> bool:
    """Inject the PEFT adapter in ``folder`` as ``name`` and fill it; a head in the folder replaces the model's.
    Returns whether there was one."""
    config = LoraConfig.from_pretrained(str(folder))
    config.modules_to_save = None
    model.add_adapter(config, adapter_name=name)
    return fill_adapter(model, folder, name)


def fill_adapter(model: nn.Module, folder: Path, name: str) -> bool:
    """Copy the tensors in ``folder`` into the model's adapter ``name``; every tensor of either must find its twin.
    Returns whether a head was among them."""
    file = adapter_weights(folder)
    tensors = {_in_model_name(key, name): stored for key, stored in list_tensors([file]).items()}
    if HEAD_WEIGHT in tensors:
        untie_head(model)
    parameters = dict(model.named_parameters())
    wanted = {key for key in parameters if f".{name}." in key} | ({HEAD_WEIGHT} & tensors.keys())
    if wanted != tensors.keys():
        raise UserError(
            f"{file}: {len(wanted - tensors.keys())} tensors missing and {len(tensors.keys() - wanted)} without a "
            f"place, e.g. {min(wanted ^ tensors.keys())}; the adapter belongs to another base"
        )
    for key, stored in tensors.items():
        if (shape := parameters[key].shape) != stored.shape:
            raise UserError(
                f"{file}: {key} has shape {stored.shape}, the model's {tuple(shape)}; "
                "the adapter belongs to another base"
            )
    copy_tensors((stored, parameters[key].data) for key, stored in tensors.items())
    return HEAD_WEIGHT in tensors


def _in_model_name(key: str, adapter: str) -> str:
    return re.sub(r"\.lora_([AB])\.(?:\w+\.)?weight$", rf".lora_\1.{adapter}.weight", key.removeprefix(PEFT_PREFIX))


def save_adapter(
    model: nn.Module, folder: Path, name: str, state: dict[str, Tensor], base: Path, with_head: bool
) -> None:
    """Write adapter ``name`` from ``state`` as a PEFT folder on ``base``; a trained head goes in as PEFT's
    `modules_to_save`, so that ``PeftModel.from_pretrained`` restores it too."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        PEFT_PREFIX + key.replace(f".{name}.", "."): value.detach().cpu().contiguous()
        for key, value in state.items()
        if f".lora_A.{name}." in key or f".lora_B.{name}." in key
    }
    if with_head:
        tensors[PEFT_PREFIX + HEAD_WEIGHT] = state[HEAD_WEIGHT].detach().cpu().contiguous()
    with replacing(folder / WEIGHTS) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})
    config = model.peft_config[name].to_dict() | {
        "base_model_name_or_path": str(base.resolve()),
        "modules_to_save": ["lm_head"] if with_head else None,
        "inference_mode": True,
    }
    write_json(folder / CONFIG, {key: sorted(v) if isinstance(v, set) else v for key, v in config.items()})

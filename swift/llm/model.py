"""Loading policies: a native Phi-4-multimodal folder, or an adapter folder on top of one (see checkpoint.py)."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoTokenizer, Phi4MultimodalForCausalLM
from transformers.utils import is_flash_attn_2_available

from swift.llm import adapters
from swift.llm.checkpoint import is_adapter, resolve_checkpoint
from swift.llm.image_processor import DynamicHDImageProcessor
from swift.llm.other_models import is_other_model, load_other_model
from swift.llm.policy import Policy, look_both_ways
from swift.utils.errors import UserError
from swift.utils.logger import get_logger

logger = get_logger()


def load_policy(
    path: str | Path,
    *,
    base: str | Path | None = None,
    dtype: torch.dtype | str = "auto",
    attn_impl: str | None = None,
    dynamic_hd: int | None = None,
) -> Policy:
    """Load the policy in ``path`` (a full or adapter folder, or a run that holds checkpoints), all of it frozen.

    ``base`` overrides the full folder an adapter names. Every tensor must find its place: missing and unexpected ones
    are an error. The vision adapter, where there is one, is active.
    """
    path = resolve_checkpoint(path)
    full = _base_of(path, base) if is_adapter(path) else path
    attention = attention_implementation(attn_impl)
    other = (
        load_other_model(full, dtype, attention, dynamic_hd)
        if is_other_model(_config(full).get("model_type"))
        else None
    )
    model = other.model if other else _load_full(full, dtype, attention)
    sources = {name: full / folder for name, folder in adapters.FOLDERS.items() if (full / folder).is_dir()}
    if is_adapter(path):
        sources["vision"] = path
    own_head = False
    for name, folder in sources.items():
        own_head |= adapters.inject_adapter(model, folder, name)
    if sources:
        model.set_adapter("vision" if "vision" in sources else next(iter(sources)))
    model.requires_grad_(False)
    files = path if (path / "tokenizer_config.json").exists() else full
    logger.info("loaded %s (%s, %s)", path, model.dtype, model.config._attn_implementation)
    if other:
        return replace(other, own_head=own_head)
    return Policy(
        model.eval(),
        AutoTokenizer.from_pretrained(files),
        DynamicHDImageProcessor.from_config(files, dynamic_hd=dynamic_hd),
        full,
        own_head,
    )


def attention_implementation(name: str | None) -> str:
    """The transformers name for ``--attn_impl``; flash attention becomes sdpa, with a note, where it cannot run."""
    if name in (None, "auto"):
        return "sdpa"
    if name in ("flash_attn", "flash_attention_2"):
        if torch.cuda.is_available() and is_flash_attn_2_available():
            return "flash_attention_2"
        logger.warning("flash attention needs CUDA and the flash-attn package: using sdpa instead")
        return "sdpa"
    return name


def _base_of(path: Path, override: str | Path | None) -> Path:
    file = path / adapters.CONFIG
    try:
        named = json.loads(file.read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read ({error}); copy the folder again") from error
    base = override or named
    if not base or not (Path(base) / "config.json").exists():
        raise UserError(f"{file}: its base model, {base}, is not there; name its folder as the base")
    return Path(base)


def _config(path: Path) -> dict:
    try:
        return json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path / 'config.json'} cannot be read ({error}); give the folder of a model") from error


def _load_full(path: Path, dtype: torch.dtype | str, attention: str) -> nn.Module:
    config = _config(path)
    if config.get("model_type") != "phi4_multimodal":
        raise UserError(
            f"{path / 'config.json'}: model_type {config.get('model_type')!r} is not supported; "
            "use a native Phi-4-multimodal folder (model_type phi4_multimodal)"
        )
    try:
        model, info = Phi4MultimodalForCausalLM.from_pretrained(
            path, dtype=dtype, attn_implementation=attention, output_loading_info=True, local_files_only=True
        )
    except (OSError, SafetensorError, RuntimeError) as error:
        raise UserError(f"{path}: weights cannot be loaded: {str(error).splitlines()[0]}") from error
    for problem in ("missing_keys", "unexpected_keys"):
        if names := sorted(info[problem]):
            raise UserError(
                f"{path}: {len(names)} {problem.replace('_', ' ')}, e.g. {names[0]}; the folder is not whole"
            )
    look_both_ways(model)
    return model

"""Loading policies: a full folder in either layout of Phi-4-multimodal, or an adapter folder on top (layouts.py)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from transformers.utils import is_flash_attn_2_available

from swift.llm.checkpoint.adapters import FOLDERS, inject_adapter
from swift.llm.checkpoint.assemble import empty_model, fill, match_tensors, read_generation_config, refuse_zero_adapters
from swift.llm.checkpoint.base_weights import check_base
from swift.llm.checkpoint.dtypes import weight_type
from swift.llm.checkpoint.layouts import Checkpoint, read_checkpoint, with_adapter
from swift.llm.checkpoint.load_hf import is_other_model, load_other_model
from swift.llm.checkpoint.save import base_of, is_adapter, resolve_checkpoint
from swift.llm.checkpoint.tokenizers import load_tokenizer
from swift.llm.images.dynamic_hd import DynamicHDImageProcessor
from swift.llm.policy import Policy, look_both_ways
from swift.utils.errors import UserError, one_line
from swift.utils.files import read_json
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
    attention = attention_implementation(attn_impl)
    full = base_of(path, base) if is_adapter(path) else path
    if is_other_model(read_json(full / "config.json", "give the folder of a model").get("model_type")):
        policy = _with_adapters(load_other_model(full, dtype, attention, dynamic_hd), path)
    else:
        policy = _load_phi4(path, find_checkpoint(path, full), dtype, attention, dynamic_hd)
    model = policy.model.eval()
    model.requires_grad_(False)
    logger.info("loaded %s (%s, %s)", path, model.dtype, model.config._attn_implementation)
    return policy


def _with_adapters(policy: Policy, path: Path) -> Policy:
    """The policy with the adapters of its full folder, and with that in ``path`` where this is an adapter folder."""
    sources = {name: policy.base / sub for name, sub in FOLDERS.items() if (policy.base / sub).is_dir()}
    if is_adapter(path):
        check_base(path, policy.base, policy.fingerprint)
        sources["vision"] = path
    own_heads = [inject_adapter(policy.model, folder, name) for name, folder in sources.items()]
    if sources:
        policy.model.set_adapter("vision" if "vision" in sources else next(iter(sources)))
    return replace(policy, own_head=any(own_heads))


def _load_phi4(
    path: Path, checkpoint: Checkpoint, dtype: torch.dtype | str, attention: str, dynamic_hd: int | None
) -> Policy:
    files = path if (path / "tokenizer_config.json").exists() else checkpoint.folder
    dtype = weight_type(checkpoint.folder, checkpoint.dtype if dtype == "auto" else dtype)
    model = empty_model(checkpoint, dtype, attention)
    found = match_tensors(model, checkpoint)
    refuse_zero_adapters(checkpoint)
    tokenizer = load_tokenizer(files, model.config.vocab_size)
    processor = _image_processor(files, model, dynamic_hd)
    for line in checkpoint.describe():
        logger.info("%s", line)
    fill(model, found, dtype)
    read_generation_config(model, checkpoint)
    if checkpoint.adapters:
        model.set_adapter("vision" if "vision" in checkpoint.adapters else next(iter(checkpoint.adapters)))
    look_both_ways(model)
    return Policy(model, tokenizer, processor, checkpoint.folder, checkpoint.own_head, checkpoint.fingerprint())


def find_checkpoint(path: Path, base: str | Path | None = None) -> Checkpoint:
    """What lies in ``path``, a full or an adapter folder; ``base`` as in :func:`load_policy`."""
    if is_adapter(path):
        return with_adapter(read_checkpoint(base_of(path, base)), path)
    return read_checkpoint(path)


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


def _image_processor(files: Path, model: nn.Module, dynamic_hd: int | None) -> DynamicHDImageProcessor:
    """The folder's processor, with crops and patches of the size the model's tower takes."""
    own, vision = DynamicHDImageProcessor.from_config(files, dynamic_hd=dynamic_hd), model.config.vision_config
    if (own.crop_size, own.patch_size) == (vision.crop_size, vision.patch_size):
        return own
    try:
        return DynamicHDImageProcessor(vision.crop_size, vision.patch_size, own.dynamic_hd)
    except (TypeError, ValueError) as error:
        raise UserError(f"{files / 'config.json'}: {one_line(error)}; copy it again") from error

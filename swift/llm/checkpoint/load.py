"""Loading policies: full folders and adapters on top of them, of Phi-4-multimodal in either layout and other models."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from transformers.utils import is_flash_attn_2_available

from swift.llm.checkpoint.adapters import FOLDERS, add_adapter, fill_adapter, read_adapter
from swift.llm.checkpoint.assemble import empty_model, fill, match_tensors, read_generation_config, refuse_zero_adapters
from swift.llm.checkpoint.base_weights import check_base
from swift.llm.checkpoint.dtypes import weight_type
from swift.llm.checkpoint.folders import PolicyFolder, find_policy
from swift.llm.checkpoint.layouts import read_checkpoint
from swift.llm.checkpoint.load_hf import is_other_model, load_other_model
from swift.llm.checkpoint.tokenizers import load_tokenizer
from swift.llm.images.dynamic_hd import DynamicHDImageProcessor
from swift.llm.policy import Policy, look_both_ways, skip_pooling
from swift.utils.errors import UserError
from swift.utils.lines import one_line
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
    """Load the policy in ``path`` (a full or adapter folder, or a run that holds checkpoints), with all of it frozen.

    ``base`` overrides the full folder that an adapter names. The vision adapter is active if there is one. Raises
    UserError for a folder that is missing, damaged or not supported, and for missing or unexpected tensors.
    """
    folder = find_policy(path, base)
    attention = attention_implementation(attn_impl)
    if is_other_model(folder.config.get("model_type")):
        policy = _with_adapters(load_other_model(folder.full, dtype, attention, dynamic_hd), folder)
    else:
        policy = _load_phi4(folder, dtype, attention, dynamic_hd)
    model = policy.model.eval()
    model.requires_grad_(False)
    logger.info("loaded %s (%s, %s)", folder.path, model.dtype, model.config._attn_implementation)
    return replace(policy, attn_impl=attn_impl or "auto")


def _with_adapters(policy: Policy, folder: PolicyFolder) -> Policy:
    """The policy with the adapters of its full folder, and with that of the adapter folder if it is one."""
    sources = {name: folder.full / sub for name, sub in FOLDERS.items() if (folder.full / sub).is_dir()}
    if folder.adapter is not None:
        check_base(folder.adapter, folder.full, policy.fingerprint)
        sources["vision"] = folder.adapter
    own_head = False
    for name, source in sources.items():
        adapter = read_adapter(source)
        add_adapter(policy.model, adapter, name)
        fill_adapter(policy.model, adapter, name)
        own_head = own_head or adapter.head is not None
    _activate(policy.model, sources)
    return replace(policy, own_head=own_head)


def _load_phi4(folder: PolicyFolder, dtype: torch.dtype | str, attention: str, dynamic_hd: int | None) -> Policy:
    checkpoint = read_checkpoint(folder)
    dtype = weight_type(checkpoint.folder, checkpoint.dtype if dtype == "auto" else dtype)
    model = empty_model(checkpoint, dtype, attention)
    matched = match_tensors(model, checkpoint)
    refuse_zero_adapters(checkpoint)
    tokenizer = load_tokenizer(folder.files, model.config.vocab_size)
    processor = _image_processor(folder.files, model, dynamic_hd)
    for line in checkpoint.describe():
        logger.info("%s", line)
    fill(model, matched, dtype)
    read_generation_config(model, checkpoint)
    _activate(model, checkpoint.adapters)
    look_both_ways(model)
    skip_pooling(model)
    return Policy(model, tokenizer, processor, checkpoint.folder, checkpoint.own_head, checkpoint.fingerprint())


def _activate(model: nn.Module, adapters: Collection[str]) -> None:
    """Switch on the vision adapter, or the first one if there is no vision adapter."""
    if adapters:
        model.set_adapter("vision" if "vision" in adapters else next(iter(adapters)))


def attention_implementation(name: str | None) -> str:
    """The transformers name of the attention outside of packed rows for ``--attn_impl``. FlexAttention is for packed
    rows alone. Flash attention becomes sdpa, with a warning, if it cannot run."""
    if name == "flex_attention" and not torch.cuda.is_available():
        logger.warning("FlexAttention needs CUDA: using sdpa instead")
    if name in (None, "auto", "flex_attention"):
        return "sdpa"
    if name in ("flash_attn", "flash_attention_2"):
        if torch.cuda.is_available() and is_flash_attn_2_available():
            return "flash_attention_2"
        logger.warning("flash attention needs CUDA and the flash-attn package: using sdpa instead")
        return "sdpa"
    return name


def _image_processor(files: Path, model: nn.Module, dynamic_hd: int | None) -> DynamicHDImageProcessor:
    """The folder's processor, with the crop and patch sizes of the model's vision tower."""
    stated, vision = DynamicHDImageProcessor.from_config(files, dynamic_hd=dynamic_hd), model.config.vision_config
    if (stated.crop_size, stated.patch_size) == (vision.crop_size, vision.patch_size):
        return stated
    try:
        return DynamicHDImageProcessor(vision.crop_size, vision.patch_size, stated.dynamic_hd)
    except (TypeError, ValueError) as error:
        raise UserError(f"{files / 'config.json'}: {one_line(error)}; copy it again") from error

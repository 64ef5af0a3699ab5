"""Loading policies: a full folder in either layout of Phi-4-multimodal, or an adapter folder on top (layouts.py)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.utils import is_flash_attn_2_available

from swift.llm.adapters import CONFIG, FOLDERS, inject_adapter
from swift.llm.assemble import empty_model, fill, match_tensors, read_generation_config, refuse_zero_adapters
from swift.llm.checkpoint import is_adapter, resolve_checkpoint
from swift.llm.image_processor import DynamicHDImageProcessor
from swift.llm.layouts import Checkpoint, fingerprint, read_checkpoint, read_json, with_adapter
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
    attention = attention_implementation(attn_impl)
    full = _base_of(path, base) if is_adapter(path) else path
    if is_other_model(read_json(full / "config.json", "give the folder of a model").get("model_type")):
        policy = _with_adapters(load_other_model(full, dtype, attention, dynamic_hd), path)
    else:
        policy = _load_phi4(path, find_checkpoint(path, base), dtype, attention, dynamic_hd)
    model = policy.model.eval()
    model.requires_grad_(False)
    logger.info("loaded %s (%s, %s)", path, model.dtype, model.config._attn_implementation)
    return policy


def _with_adapters(policy: Policy, path: Path) -> Policy:
    """The policy with the adapters of its full folder, and with that in ``path`` where this is an adapter folder."""
    sources = {name: policy.base / sub for name, sub in FOLDERS.items() if (policy.base / sub).is_dir()}
    if is_adapter(path):
        sources["vision"] = path
    own_heads = [inject_adapter(policy.model, folder, name) for name, folder in sources.items()]
    if sources:
        policy.model.set_adapter("vision" if "vision" in sources else next(iter(sources)))
    return replace(policy, own_head=any(own_heads))


def _load_phi4(
    path: Path, checkpoint: Checkpoint, dtype: torch.dtype | str, attention: str, dynamic_hd: int | None
) -> Policy:
    files = path if (path / "tokenizer_config.json").exists() else checkpoint.folder
    dtype = _weight_type(checkpoint, dtype)
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
    return Policy(model, tokenizer, processor, checkpoint.folder, checkpoint.own_head, fingerprint(checkpoint))


def find_checkpoint(path: Path, base: str | Path | None = None) -> Checkpoint:
    """What lies in ``path``, a full or an adapter folder; ``base`` as in :func:`load_policy`."""
    if is_adapter(path):
        return with_adapter(read_checkpoint(_base_of(path, base)), path)
    return read_checkpoint(path)


def load_tokenizer(folder: Path, vocabulary: int) -> PreTrainedTokenizerBase:
    """The folder's tokenizer. Raises UserError where it is not whole or has ids beyond the embedding's ``vocabulary``.

    tokenizer.json is read as it stands: the class that Microsoft's tokenizer_config.json names splits text otherwise.
    """
    try:
        whole = (folder / "tokenizer.json").exists()
        tokenizer = (PreTrainedTokenizerFast if whole else AutoTokenizer).from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # the tokenizers package raises bare Exception
        text = (str(error).splitlines() or [repr(error)])[0]
        raise UserError(f"{folder}: the tokenizer cannot be read ({text}); copy its files again") from error
    highest = max(tokenizer.get_vocab().values(), default=-1)
    if highest >= vocabulary:
        raise UserError(
            f"{folder}: the tokenizer has ids up to {highest}, the embedding {vocabulary} rows; "
            "take tokenizer and weights from one checkpoint"
        )
    return tokenizer


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
    base = override or read_json(path / CONFIG, "copy the folder again").get("base_model_name_or_path")
    if not base or not (Path(base) / "config.json").exists():
        raise UserError(f"{path / CONFIG}: its base model, {base}, is not there; name its folder as the base")
    return Path(base)


def _image_processor(files: Path, model: nn.Module, dynamic_hd: int | None) -> DynamicHDImageProcessor:
    """The folder's processor, with crops and patches of the size the model's tower takes."""
    own, vision = DynamicHDImageProcessor.from_config(files, dynamic_hd=dynamic_hd), model.config.vision_config
    if (own.crop_size, own.patch_size) == (vision.crop_size, vision.patch_size):
        return own
    return DynamicHDImageProcessor(vision.crop_size, vision.patch_size, own.dynamic_hd)


def _weight_type(checkpoint: Checkpoint, wanted: torch.dtype | str) -> torch.dtype:
    """The type to compute in; "auto" is the configuration's, else the embedding's as stored. Raises UserError for one
    that the device cannot compute in."""
    dtype = checkpoint.dtype if wanted == "auto" else wanted
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    if not isinstance(dtype, torch.dtype) or not computes_in(dtype, device):
        raise UserError(
            f"{checkpoint.folder}: {dtype} weights cannot be computed with on this device ({device.type}); "
            "pass --torch_dtype bfloat16, float16 or float32"
        )
    return dtype


def computes_in(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether ``device`` multiplies, normalises and convolves in ``dtype``, and not by emulation."""
    if device.type == "cuda":  # asked, not tried: trying would cost every process memory on the first device
        native = dtype != torch.bfloat16 or torch.cuda.is_bf16_supported(including_emulation=False)
        return native and dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64)
    try:
        x = torch.ones(1, 4, 4, dtype=dtype, device=device)
        nn.functional.scaled_dot_product_attention(x, x, x)
        nn.functional.layer_norm(nn.functional.conv1d(x, x), (1,))
    except (RuntimeError, TypeError):
        return False
    return dtype.is_floating_point

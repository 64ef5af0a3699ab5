"""What ``--deepspeed`` names stand for. "auto" is filled in by transformers from the other flags."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from swift.utils.errors import UserError

_ZERO_COMMON = {
    "bf16": {"enabled": "auto"},
    "fp16": {"enabled": "auto"},
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
    "zero_allow_untested_optimizer": True,
}
DEEPSPEED_CONFIGS: dict[str, dict[str, Any]] = {
    "zero2": _ZERO_COMMON | {"zero_optimization": {"stage": 2, "overlap_comm": False, "contiguous_gradients": True}},
    "zero3": _ZERO_COMMON
    | {
        "zero_optimization": {
            "stage": 3,
            "overlap_comm": False,
            "contiguous_gradients": True,
            "stage3_prefetch_bucket_size": "auto",
            "stage3_param_persistence_threshold": "auto",
            "stage3_gather_16bit_weights_on_model_save": True,
        }
    },
}


def deepspeed_config(value: str | dict[str, Any]) -> str | dict[str, Any]:
    """The configuration for ``zero2`` or ``zero3``; a file's path and a dict stay as they are. Raises UserError where
    deepspeed is not installed or there is no such file."""
    if importlib.util.find_spec("deepspeed") is None:
        raise UserError("--deepspeed needs the deepspeed package; pip install deepspeed, or leave the flag out")
    if isinstance(value, dict) or Path(value).is_file():
        return value
    if value not in DEEPSPEED_CONFIGS:
        raise UserError(f"--deepspeed {value} is neither a file nor one of {', '.join(DEEPSPEED_CONFIGS)}; correct it")
    return DEEPSPEED_CONFIGS[value]

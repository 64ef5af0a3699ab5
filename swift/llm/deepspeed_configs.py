"""DeepSpeed: the configurations named ``zero2``, ``zero3`` and so on, checks, and loading models without its help.

Transformers replaces "auto" by values of the other flags.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers.integrations import deepspeed

from swift.utils.errors import UserError
from swift.utils.files import read_json

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


def _offloaded(name: str, *parts: str) -> dict[str, Any]:
    """The configuration of that name with these parts in the host's memory."""
    places = {f"offload_{part}": {"device": "cpu", "pin_memory": True} for part in parts}
    return _ZERO_COMMON | {"zero_optimization": DEEPSPEED_CONFIGS[name]["zero_optimization"] | places}


DEEPSPEED_CONFIGS |= {
    "zero0": _ZERO_COMMON | {"zero_optimization": {"stage": 0}},
    "zero1": _ZERO_COMMON | {"zero_optimization": {"stage": 1}},
    "zero2_offload": _offloaded("zero2", "optimizer"),
    "zero3_offload": _offloaded("zero3", "optimizer", "param"),
}


def deepspeed_config(value: str | dict[str, Any]) -> str | dict[str, Any]:
    """The configuration of that name, such as ``zero2``; the path of a file and a dict stay as they are.

    Raises UserError if deepspeed is not installed, there is no such file, or it holds no settings.
    """
    if importlib.util.find_spec("deepspeed") is None:
        raise UserError("--deepspeed needs the deepspeed package; pip install deepspeed, or leave the flag out")
    skip_shared_memory_kernel()
    if isinstance(value, dict) or Path(value).is_file():
        remedy = f"write DeepSpeed's settings into it, or name one of {', '.join(DEEPSPEED_CONFIGS)}"
        if not (value if isinstance(value, dict) else read_json(value, remedy, what="--deepspeed")):
            raise UserError(f"--deepspeed {value} holds no settings; {remedy}")
        return value
    if value not in DEEPSPEED_CONFIGS:
        raise UserError(f"--deepspeed {value} is neither a file nor one of {', '.join(DEEPSPEED_CONFIGS)}; correct it")
    return DEEPSPEED_CONFIGS[value]


def check_mismatches(mismatches: Sequence[str]) -> None:
    """Raise UserError for settings of a DeepSpeed file that contradict the flags, as transformers lists them:
    ``- ds train_batch_size=7 vs hf train_batch_size (calculated)=8``."""
    if mismatches:
        listed = ", ".join(line.removeprefix("- ds ").replace(" vs hf ", " against ") for line in mismatches)
        raise UserError(f'--deepspeed: the file contradicts the flags ({listed}); set the values in the file to "auto"')


def skip_shared_memory_kernel() -> None:
    """On CPUs DeepSpeed compiles a kernel for collectives, which takes 45 s at first use; gloo does without."""
    import deepspeed as package

    package.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def check_precision(config: Any) -> None:
    """Raise UserError if DeepSpeed would keep the weights in half precision; ``config`` is transformers' view of it."""
    for kind in ("bf16", "fp16"):
        if config.is_true(f"{kind}.enabled"):
            raise UserError(
                f"--deepspeed with {kind} would round what trains; leave --{kind} out: --torch_dtype bfloat16 computes "
                "in bfloat16 and trains in float32"
            )


@contextmanager
def whole_weights() -> Iterator[None]:
    """Within the block transformers builds and loads models whole, also when ZeRO-3 is in use.

    Otherwise DeepSpeed would split each parameter over the processes as it is built, and empty shells cannot be split.
    With this, it splits the complete model when training begins.
    """
    reference = deepspeed._hf_deepspeed_config_weak_ref
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = reference

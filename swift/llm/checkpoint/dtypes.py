"""The floating-point type a policy computes in."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from swift.utils.errors import UserError


def weight_type(folder: Path, dtype: object) -> torch.dtype:
    """``dtype``, as requested or as stated in ``folder``. Raises UserError if the device cannot compute in it."""
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    if not isinstance(dtype, torch.dtype) or not computes_in(dtype, device):
        raise UserError(
            f"{folder}: {dtype} weights cannot be computed with on this device ({device.type}); "
            "pass --torch_dtype bfloat16, float16 or float32"
        )
    return dtype


def computes_in(dtype: torch.dtype, device: torch.device) -> bool:
    """True if ``device`` multiplies, normalizes and convolves in ``dtype`` natively, not by emulation."""
    if device.type == "cuda":  # a query: a trial would cost every process memory on the first device
        native = dtype != torch.bfloat16 or torch.cuda.is_bf16_supported(including_emulation=False)
        return native and dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64)
    try:
        x = torch.ones(1, 4, 4, dtype=dtype, device=device)
        nn.functional.scaled_dot_product_attention(x, x, x)
        nn.functional.layer_norm(nn.functional.conv1d(x, x), (1,))
    except (RuntimeError, TypeError):
        return False
    return dtype.is_floating_point

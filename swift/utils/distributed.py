"""Facts about processes and devices, as the launcher set them. Names and values follow ms-swift 3.3."""

from __future__ import annotations

import os
from datetime import timedelta

from swift.utils.errors import UserError


def get_dist_setting() -> tuple[int, int, int, int]:
    """``(rank, local_rank, world_size, local_world_size)`` from the launcher; (-1, -1, 1, 1) without one."""
    environ = os.environ
    local_world_size = environ.get("LOCAL_WORLD_SIZE") or environ.get("LOCAL_SIZE") or 1
    return (
        int(environ.get("RANK", -1)),
        int(environ.get("LOCAL_RANK", -1)),
        int(environ.get("WORLD_SIZE", 1)),
        int(local_world_size),
    )


def is_dist() -> bool:
    """True in a process that a distributed launcher started."""
    rank, local_rank, _, _ = get_dist_setting()
    return rank >= 0 and local_rank >= 0


def is_master() -> bool:
    """True in the one process that writes files: rank 0, or the only process."""
    return get_dist_setting()[0] <= 0


def is_local_master() -> bool:
    """True in the first process of this node, or the only process."""
    return get_dist_setting()[1] <= 0


def get_device_count() -> int:
    """Number of accelerators visible to this process (CUDA, NPU, XPU ...); 0 on a CPU."""
    import torch

    return torch.accelerator.device_count() if torch.accelerator.is_available() else 0


def runs_on_cpu() -> bool:
    """True if the launcher started several processes and no accelerator is at hand: they form a gloo group. Left to
    themselves, transformers and accelerate make no process group then, and each process would train alone.

    Raises UserError if this node has fewer accelerators than processes.
    """
    _, _, world_size, local_world_size = get_dist_setting()
    if world_size == 1:
        return False
    devices = get_device_count()
    if 0 < devices < local_world_size:
        raise UserError(
            f"the launcher started {local_world_size} processes for {devices} accelerators; start as many as there are "
            "accelerators, or pass --use_cpu true"
        )
    return devices == 0


def join_gloo_group(timeout: float) -> None:
    """Join the launcher's processes over gloo, unless they are a group already. A collective that waits for more than
    ``timeout`` seconds fails. Transformers would join them with gloo's own 30 minutes, whatever --ddp_timeout says."""
    import torch

    if is_dist() and not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo", timeout=timedelta(seconds=timeout))


def check_world_size(world_size: int) -> None:
    """Raise UserError unless the run has as many processes as the launcher started."""
    launched = get_dist_setting()[2]
    if world_size != launched:
        raise UserError(
            f"the launcher started {launched} processes, but the run would see {world_size}; start it with torchrun, "
            "accelerate launch or deepspeed, and leave ACCELERATE_* variables of other runs out"
        )


def is_mp() -> bool:
    """True if the model is spread over devices: each process of this node has two or more of them."""
    return get_device_count() // get_dist_setting()[3] >= 2


def is_mp_ddp() -> bool:
    """True if each of several data-parallel processes spreads the model over its devices."""
    return is_dist() and is_mp()

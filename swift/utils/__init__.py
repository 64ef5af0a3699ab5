"""Files, flags, processes, and the names that plugins for ms-swift 3.3 import from here. Imports no torch."""

from swift.utils.distributed import (
    get_device_count,
    get_dist_setting,
    is_dist,
    is_local_master,
    is_master,
    is_mp,
    is_mp_ddp,
)
from swift.utils.logger import get_logger

__all__ = [
    "get_device_count",
    "get_dist_setting",
    "get_logger",
    "is_dist",
    "is_local_master",
    "is_master",
    "is_mp",
    "is_mp_ddp",
]

"""A command that fails in two processes of a launcher in one of the ways named on the command line.

    python -m torch.distributed.run --standalone --nproc_per_node 2 -m tests.support.processes.failing_ranks WAY

``same``: both find the same mistake. ``lost``: the first finds a mistake, the second then misses it.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from swift.utils.endings.launched import ERROR_FILE
from swift.utils.errors import UserError, reports_user_errors


@reports_user_errors
def main() -> int:
    """Fail."""
    way, rank = sys.argv[1], int(os.environ["RANK"])
    if way == "same":
        raise UserError("--beta x: give a number")
    if rank == 0:
        time.sleep(0.5)
        raise UserError("the reward is not finite")
    while not (Path(os.environ[ERROR_FILE]).parent.parent / "first-line").exists():  # until the other has gone
        time.sleep(0.05)
    raise RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:31465")


if __name__ == "__main__":
    sys.exit(main())

"""The end of a command whose plugins may have left threads or processes behind."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import NoReturn

PATIENCE = 5.0  # seconds that threads and processes have after the command is done


def run_to_its_end(main: Callable[[], int]) -> NoReturn:
    """Run a command's ``main`` and end the process with its status.

    Python waits for threads and processes that are not daemons, and so would a finished run for one that a reward has
    started and that does not end. It gets `PATIENCE` seconds. Then a line names it and the process ends without it.
    """
    status = 1
    try:
        status = main()
    finally:
        threading.Thread(target=_end_without_others, args=(status,), daemon=True).start()
    sys.exit(status)


def _end_without_others(status: int) -> None:
    time.sleep(PATIENCE)
    children = [child for child in multiprocessing.active_children() if not child.daemon]
    for child in children:
        child.kill()  # what waits for it then ends
    threads = [] if children else threading.enumerate()
    running = [thread for thread in threads if not thread.daemon and thread is not threading.main_thread()]
    if not children and not running:
        return  # what takes long is neither: files that are written at the exit, say
    names = ", ".join(other.name for other in [*children, *running])
    print(f"warning: ended without waiting for what a plugin left behind: {names}", file=sys.stderr)
    if children:
        _end_without_others(status)
        return
    # What would run at the exit gets as much time again.
    last = threading.Thread(target=atexit._run_exitfuncs, daemon=True)
    last.start()
    last.join(PATIENCE)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)

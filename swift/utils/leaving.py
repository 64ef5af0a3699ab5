"""The end of a command whose plugins may have left threads behind."""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import NoReturn

PATIENCE = 5.0  # seconds that threads have after the command is done


def run_to_its_end(main: Callable[[], int]) -> NoReturn:
    """Run a command's ``main`` and end the process with its status.

    Python waits for threads that are not daemons, and so would a finished run for one that a reward has started and
    that does not end. It gets `PATIENCE` seconds. Then a line names it and the process ends without it.
    """
    status = 1
    try:
        status = main()
    finally:
        threading.Thread(target=_end_without_threads, args=(status,), daemon=True).start()
    sys.exit(status)


def _end_without_threads(status: int) -> None:
    time.sleep(PATIENCE)
    running = [thread for thread in threading.enumerate() if not thread.daemon and thread.is_alive()]
    names = ", ".join(thread.name for thread in running if thread is not threading.main_thread())
    if not names:
        return  # what takes long is not a thread: files that are written at the exit, say
    print(f"warning: ended without waiting for threads that a plugin left behind: {names}", file=sys.stderr)
    # What would run at the exit gets as much time again.
    last = threading.Thread(target=atexit._run_exitfuncs, daemon=True)
    last.start()
    last.join(PATIENCE)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)

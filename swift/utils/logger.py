"""The project's logger."""

from __future__ import annotations

import logging
import os
import sys

from swift.utils.lines import without_controls


class _OneLine(logging.Formatter):
    """One line per message, whatever texts are in it. A traceback follows in lines of its own."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return without_controls(super().formatMessage(record))


def get_logger(name: str = "chex") -> logging.Logger:
    """The project's logger. It writes time, level and message to stderr.

    Ranks other than 0 write warnings and errors only. Plugins for ms-swift call it without ``name``.
    """
    logger = logging.getLogger(name)
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(_OneLine("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
        logger.addHandler(handler)
        logger.propagate = False
        logger.setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.WARNING)
    return logger

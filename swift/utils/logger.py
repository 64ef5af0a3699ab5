"""The one logger of the project."""

from __future__ import annotations

import logging
import os
import sys


def get_logger(name: str = "chex") -> logging.Logger:
    """The project's logger: time and level on stderr; only rank 0 speaks below WARNING. ``name`` is kept for
    compatibility with ms-swift, whose plugins call ``get_logger()``."""
    logger = logging.getLogger(name)
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
        logger.addHandler(handler)
        logger.propagate = False
        logger.setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.WARNING)
    return logger

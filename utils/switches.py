"""Environment switches."""

from __future__ import annotations

import os


def env_switch(name: str) -> bool:
    """True if the variable is "1", False if it is "0", empty or unset.

    Raises:
        ValueError: any other value, so that a misspelled switch is never taken for "off".
    """
    value = os.environ.get(name, "")
    if value not in ("", "0", "1"):
        raise ValueError(f"{name}={value!r} is neither on nor off; set {name}=1 or {name}=0")
    return value == "1"

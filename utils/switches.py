"""Environment variables that change results, and the reading of on-off switches."""

from __future__ import annotations

import os
from collections.abc import Mapping

# Variables that change what a run computes. They are written into args.json, and runs that differ in one of them are
# different runs.
SWITCHES = (
    "FREEZE_NON_VISION_PARAMS",
    "REXKG_EXTRACTOR",
    "REXKG_DIR",
    "REXKG_MARKERS",
    "REXKG_POLARITY",
    "REXKG_TERMS",
    "KG_TEXT",
    "KG_REPORTS",
    "RADEVAL_METRIC",
    "CHEX_RUN_CODE",
)
ROUNDING = ("OMP_NUM_THREADS",)  # written into args.json too; may change the last digits of a result


def switches_set(environment: Mapping[str, str], names: tuple[str, ...] = SWITCHES) -> dict[str, str]:
    """The values of the variables ``names`` in ``environment``; a variable that is unset or empty is left out."""
    return {name: environment[name] for name in names if environment.get(name)}


def env_switch(name: str) -> bool:
    """True if the variable is "1", False if it is "0", empty or unset.

    Raises:
        ValueError: any other value, so that a misspelled switch is never taken for "off".
    """
    value = os.environ.get(name, "")
    if value not in ("", "0", "1"):
        raise ValueError(f"{name}={value!r} is neither on nor off; set {name}=1 or {name}=0")
    return value == "1"

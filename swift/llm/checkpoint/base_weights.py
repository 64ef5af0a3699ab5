"""Fingerprints of base weights: written beside an adapter as base.json, and compared when the adapter is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from swift.llm.checkpoint.adapters import BASE
from swift.llm.checkpoint.stored_tensors import Stored, digest_first_rows
from swift.utils.errors import UserError
from swift.utils.files import read_json
from swift.utils.logger import get_logger

logger = get_logger()

DIGEST = "sha256_bfloat16"  # a base.json without it has an older form and is not compared
COMPARABLE = {"float32", "bfloat16"}  # one is the other rounded once, so that both give one digest


def weights_fingerprint(weights: Mapping[str, Stored]) -> dict[str, str]:
    """Fingerprint of base weights. Equal values give equal fingerprints in either layout, and in either of the
    ``COMPARABLE`` types."""
    kinds = {str(stored.dtype).removeprefix("torch.") for stored in weights.values() if stored.dtype.is_floating_point}
    return {"dtypes": " ".join(sorted(kinds)), DIGEST: digest_first_rows(weights)}


def check_base(adapter: Path, base: Path, fingerprint: Mapping[str, str] | None) -> None:
    """Raise UserError if the adapter was trained on other weights than those in ``base``, whose ``fingerprint`` is
    given. If their types are not ``COMPARABLE`` and differ, there is a warning only."""
    if fingerprint is None or not (adapter / BASE).exists():
        return
    trained_on = read_json(adapter / BASE, "copy it again")
    if DIGEST not in trained_on or trained_on[DIGEST] == fingerprint[DIGEST]:
        return
    trained_types, types = str(trained_on.get("dtypes")), fingerprint["dtypes"]
    if trained_types != types and not {*trained_types.split(), *types.split()} <= COMPARABLE:
        logger.warning(
            "%s was trained on %s weights and %s has %s weights: they cannot be compared",
            adapter,
            trained_types,
            base,
            types,
        )
        return
    raise UserError(
        f"{adapter}: the adapter was trained on another base than {base}, whose weights have the "
        "same shapes and other values; name the base it was trained on"
    )

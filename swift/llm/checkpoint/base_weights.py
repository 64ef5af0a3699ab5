"""Which weights an adapter was trained on: written beside it as base.json, and compared when it is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from swift.llm.checkpoint.adapters import BASE
from swift.llm.checkpoint.stored_tensors import Stored, digest_first_rows
from swift.utils.errors import UserError
from swift.utils.files import read_json
from swift.utils.logger import get_logger

logger = get_logger()

DIGEST = "sha256_bfloat16"  # a base.json without it is of an older form, and not compared
COMPARABLE = {"float32", "bfloat16"}  # one rounding from the first to the second, so that both give one digest


def weights_fingerprint(weights: Mapping[str, Stored]) -> dict[str, str]:
    """What tells ``weights`` from others of the same shapes, whatever the layout and, of ``COMPARABLE``, the type."""
    kinds = {str(stored.dtype).removeprefix("torch.") for stored in weights.values() if stored.dtype.is_floating_point}
    return {"dtypes": " ".join(sorted(kinds)), DIGEST: digest_first_rows(weights)}


def check_base(adapter: Path, base: Path, found: Mapping[str, str] | None) -> None:
    """Raise UserError where the adapter's folder says that it was trained on weights other than those ``found`` in
    ``base``. Digests of types that are not ``COMPARABLE`` count only where the types are the same."""
    if found is None or not (adapter / BASE).exists():
        return
    trained_on = read_json(adapter / BASE, "copy it again")
    if DIGEST not in trained_on or trained_on[DIGEST] == found[DIGEST]:
        return
    types = str(trained_on.get("dtypes")), found["dtypes"]
    if types[0] != types[1] and not set(" ".join(types).split()) <= COMPARABLE:
        logger.warning(
            "%s was trained on %s weights, %s has %s: whether they are the same cannot be told",
            adapter,
            types[0],
            base,
            types[1],
        )
        return
    raise UserError(
        f"{adapter}: the adapter was trained on another base than {base}, whose weights have the "
        "same shapes and other values; name the base it was trained on"
    )

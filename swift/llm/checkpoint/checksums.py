"""checksums.json: the SHA-256 of every file of a folder, written into the folder and verified later."""

from __future__ import annotations

import hashlib
from pathlib import Path

from swift.utils.errors import UserError
from swift.utils.files import read_json

CHECKSUMS = "checksums.json"


def checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below ``folder`` except checksums.json itself, by relative path."""
    sums = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / CHECKSUMS):
        with path.open("rb") as file:
            sums[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return sums


def verify_checksums(folder: Path, remedy: str = "copy the folder again") -> None:
    """Compare ``folder`` with its checksums.json if it has one. Files that are not listed do not count.

    Raises UserError that names the files that are missing or differ, and ends with ``remedy``.
    """
    if not (folder / CHECKSUMS).exists():
        return
    stated = read_json(folder / CHECKSUMS, f"remove it to go without the check, or {remedy}")
    computed = checksums(folder)
    if wrong := sorted(name for name, digest in stated.items() if computed.get(name) != digest):
        raise UserError(
            f"{folder}: {', '.join(wrong)} differ from {CHECKSUMS}; {remedy}, or remove {CHECKSUMS} if you changed them"
        )

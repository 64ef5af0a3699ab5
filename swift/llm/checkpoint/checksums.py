"""checksums.json: the SHA-256 of every file of a folder, written into the folder and verified later."""

from __future__ import annotations

import hashlib
from pathlib import Path

from swift.utils.errors import UserError
from swift.utils.files import read_json
from swift.utils.run_folder import CHECKSUMS, WRITING


def checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below ``folder`` by relative path, without checksums.json and the mark of an unfinished
    checkpoint."""
    sums, left_out = {}, (folder / CHECKSUMS, folder / WRITING)
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path not in left_out):
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
    if not stated:
        raise UserError(f"{folder / CHECKSUMS} names no file; {remedy}")
    if lost := sorted(stated.keys() - computed.keys()):
        raise UserError(f"{folder}: {', '.join(lost)} missing; {remedy}")
    if wrong := sorted(name for name, digest in stated.items() if computed[name] != digest):
        raise UserError(f"{folder}: {', '.join(wrong)} differ from {CHECKSUMS}; {remedy}")

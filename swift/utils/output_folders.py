"""Checks that something can be written to a place, made before a command begins its work."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from swift.utils.endings.faults import describe_fault
from swift.utils.errors import UserError

_PROBE = b"\0" * 4096
_FILE_NAMES = 200  # bytes left for the names of files below an output folder


def check_output_folder(folder: str | Path, flag: str = "--output_dir", *, needed: int = 0) -> None:
    """Check that ``folder`` can be made, if it is missing, and written to. Nothing is left behind.

    Args:
        flag: the setting that names the folder, for messages.
        needed: bytes that are certainly going to be written.

    Raises:
        UserError: the path is empty, too long or not a folder; a small file cannot be written there; or there is not
            enough room.
    """
    place = _usable(folder, flag)
    standing = _standing(place)
    if not os.path.isdir(standing):
        missing = standing.is_symlink() and not os.path.exists(standing)
        what = f"a link to {os.readlink(standing)}, which does not exist" if missing else "a file and not a folder"
        raise UserError(f"{flag} {folder}: {standing} is {what}; name another folder, or remove it")
    _check_names(place, standing, flag)
    try:
        with tempfile.TemporaryFile(dir=standing, prefix=".probe") as file:
            file.write(_PROBE)
            file.flush()
            os.fsync(file.fileno())
        free = shutil.disk_usage(standing).free
    except OSError as error:
        error.filename = str(standing)  # instead of the name of the probe
        raise UserError(f"{flag} cannot be written to: {describe_fault(error)}") from error
    if free < needed:
        raise UserError(
            f"{flag} {folder}: {gigabytes(free)} are free, and at least {gigabytes(needed)} are needed; free some "
            "space, or name a folder on another disk"
        )


def check_output_file(file: str | Path, flag: str) -> None:
    """Check that ``file`` can be written. Raises UserError as :func:`check_output_folder`."""
    place = _usable(file, flag)
    if os.path.isdir(place):
        raise UserError(f"{flag} {file} is a folder; name a file")
    check_output_folder(place.parent, flag)
    _check_names(place, _standing(place), flag)


def free_space(folder: str | Path) -> int:
    """Free bytes on the disk of an existing folder."""
    return shutil.disk_usage(folder).free


def gigabytes(count: int) -> str:
    """A number of bytes in words."""
    return f"{count / 1e9:.2f} GB" if count >= 1e7 else f"{count / 1e6:.3f} MB"


def _usable(path: str | Path, flag: str) -> Path:
    if not str(path).strip() or "\0" in str(path):
        raise UserError(f"{flag} {str(path)!r} is not a path; name a folder")
    try:
        return Path(os.path.abspath(path))
    except OSError as error:
        raise UserError(f"{flag} {path}: the working folder was removed; start from another one") from error


def _standing(place: Path) -> Path:
    """The nearest that exists of a place and the folders above it."""
    while not os.path.lexists(place):
        place = place.parent
    return place


def _check_names(place: Path, standing: Path, flag: str) -> None:
    """Raise UserError if a part of the path, or the whole of it, is longer than the file system allows."""
    longest, whole = os.pathconf(standing, "PC_NAME_MAX"), os.pathconf(standing, "PC_PATH_MAX")
    name = max(place.parts, key=lambda part: len(os.fsencode(part)))
    if len(os.fsencode(name)) > longest:
        raise UserError(f"{flag} has a name of {len(os.fsencode(name))} bytes, over {longest}; name a shorter one")
    if len(os.fsencode(place)) > whole - _FILE_NAMES:
        raise UserError(f"{flag} is a path of {len(os.fsencode(place))} bytes, which is too long; name a shorter one")

"""Digests of values and model folders. A changed digest shows that the contents have changed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from swift.utils.errors import UserError

MODEL_FILES = ("*.safetensors", "*.bin", "*config.json", "tokenizer*", "vocab*", "merges.txt", "*.model")
SAMPLE, SAMPLES = 1 << 16, 64  # bytes read at each of as many places of a large file
DIGEST_DIGITS = 16


def value_digest(value: Any) -> str:
    """Short SHA-256 of a JSON value; key order does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:DIGEST_DIGITS]


def file_digest(path: str | Path) -> str:
    """Short SHA-256 of a file's contents. Raises UserError if the file cannot be read."""
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:DIGEST_DIGITS]
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); fix its path or permissions") from error


def folder_digest(folder: str | Path) -> str:
    """Short SHA-256 of a model's files: their relative names, sizes and contents.

    Of a file over 4 MiB, 64 KiB are read at each of 64 evenly spaced places. Training changes weights nearly
    everywhere, so these samples suffice. Reading all of 11 GB would take longer than loading the model.
    """
    folder = Path(folder)
    places = [folder, *folder.glob("*-lora")]
    files = sorted({path for place in places for name in MODEL_FILES for path in place.glob(name) if path.is_file()})
    return value_digest([[str(path.relative_to(folder)), path.stat().st_size, _sampled(path)] for path in files])


def _sampled(path: Path) -> str:
    size = path.stat().st_size
    digest = hashlib.sha256()
    with path.open("rb") as file:
        if size <= SAMPLE * SAMPLES:
            digest.update(file.read())
        else:
            for place in range(SAMPLES):
                file.seek(place * (size - SAMPLE) // (SAMPLES - 1))
                digest.update(file.read(SAMPLE))
    return digest.hexdigest()[:DIGEST_DIGITS]

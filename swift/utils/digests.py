"""Short names for contents, to tell whether what is there is what was there before."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

MODEL_FILES = ("*.safetensors", "*.bin", "*config.json", "tokenizer*", "vocab*", "merges.txt", "*.model")
SAMPLE, SAMPLES = 1 << 16, 64  # bytes read at each of as many places of a large file
DIGEST_DIGITS = 16


def value_digest(value: Any) -> str:
    """Of anything JSON can hold; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:DIGEST_DIGITS]


def folder_digest(folder: str | Path) -> str:
    """Of a model's files by relative name, size and contents. Of a file over 4 MiB, 64 KiB at each of 64 even places
    are read: weights that were trained differ nearly everywhere, and 11 GB would take longer to read than to load."""
    folder = Path(folder)
    places = [folder, *folder.glob("*-lora")]
    files = sorted({path for place in places for name in MODEL_FILES for path in place.glob(name) if path.is_file()})
    return value_digest([[str(path.relative_to(folder)), path.stat().st_size, _sampled(path)] for path in files])


def _sampled(path: Path) -> str:
    size = path.stat().st_size
    found = hashlib.sha256()
    with path.open("rb") as file:
        if size <= SAMPLE * SAMPLES:
            found.update(file.read())
        else:
            for place in range(SAMPLES):
                file.seek(place * (size - SAMPLE) // (SAMPLES - 1))
                found.update(file.read(SAMPLE))
    return found.hexdigest()[:DIGEST_DIGITS]

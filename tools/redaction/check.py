"""Proof that a copy holds no text, path or identifier of its source.

The check knows nothing of the rules that made the copy, except for the fixed words of the file formats. It collects
every text of the source's JSON files, every name in the paths, and every number that names a patient, a study or an
image. Then it searches all bytes of the copy for them, those inside archives and base64 included. A text of fewer than
`SHORTEST` characters is too short to be searched for.
"""

from __future__ import annotations

import base64
import binascii
import gzip
import io
import json
import os
import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tools.redaction.files import known_rules
from tools.redaction.names import CHECKPOINT, FIXED_FOLDERS, FIXED_NAMES, PSEUDONYM_KINDS, split_ending
from tools.redaction.rules import format_words

SHORTEST = 4  # characters of a text that is searched for as a word
SEARCH_WIDTH = 8  # characters of a text that is searched for anywhere
LONGEST = 24  # characters of a longer text that are searched for, so that a part of it is found too
DIGITS = 6  # of a number that may name somebody
SEARCHED_AT_ONCE = 1 << 20
DEPTH = 3  # archives within archives
_IDENTIFIERS = {"subject_id", "study_id", "dicom_id", "image_id", "image_ids", "patient_id", "images", "image"}
# Fields whose texts are words of programs: versions, commits, names of rewards, numbers of a sweep.
_PROGRAM_FIELDS = {
    "versions", "git", "extractor", "rewards", "reward_funcs", "learning_rate", "size", "seed", "seeds", "beta",
    "generations",
}  # fmt: skip
_PROGRAM_KEY = re.compile(r"[a-z_]+/\w+(?:/std)?|pass@\d+\w*")
_WORD = re.compile(rb"[0-9a-z_\x80-\xff]+")
_INTEGER = re.compile(rb"(?<![\w.])\d+(?![\w.])")
_PSEUDONYM = re.compile(rf"(?:{'|'.join(PSEUDONYM_KINDS)})-[0-9a-f]{{16}}".encode())
_BASE64 = re.compile(rb"[A-Za-z0-9+/]{16,}={0,2}")


@dataclass
class Needles:
    """Texts to search for: ``words`` between other characters, ``parts`` anywhere, and ``integers``."""

    words: set[bytes]
    parts: set[bytes]
    integers: set[bytes]

    def __post_init__(self) -> None:
        self._lengths: dict[int, set[int]] = {}  # of the parts, by their first bytes as a number
        for part in self.parts:
            self._lengths.setdefault(int.from_bytes(part[:SEARCH_WIDTH], "little"), set()).add(len(part))
        self._starts = np.array(sorted(self._lengths), dtype=np.uint64)

    @classmethod
    def of(cls, source: Path) -> Needles:
        """Every text, name and identifier of a folder that a copy must not hold."""
        known = _known_words()
        fixed = "\n".join(known)
        collected = _Texts()
        collected.read_folder(source)
        texts = {text.lower() for text in collected.texts} - known - {name.lower() for name in collected.rewards}
        integers = {text for text in texts if _is_number(text)}
        tell = [text for text in texts - integers if len(text) >= SHORTEST and not CHECKPOINT.fullmatch(text)]
        words = {text.encode("utf-8", "replace") for text in tell}
        parts = {text[:LONGEST] for text in tell if len(text) >= SEARCH_WIDTH}
        return cls(
            {word for word in words if _WORD.fullmatch(word)},
            {part.encode("utf-8", "replace") for part in parts if part not in fixed},
            {text.removesuffix(".0").encode() for text in integers if len(text.removesuffix(".0")) >= DIGITS},
        )

    def within(self, data: bytes) -> set[bytes]:
        """The needles that occur in ``data``, which is in lower case, between its pseudonyms."""
        data = _PSEUDONYM.sub(b"\0", data)
        found = self.words.intersection(match[0] for match in _WORD.finditer(data))
        found |= self.integers.intersection(match[0] for match in _INTEGER.finditer(data))
        return found | self._parts_within(data)

    def _parts_within(self, data: bytes) -> set[bytes]:
        found: set[bytes] = set()
        for begin in range(0, max(0, len(data) - SEARCH_WIDTH + 1), SEARCHED_AT_ONCE) if self.parts else ():
            piece = np.frombuffer(data, np.uint8)[begin : begin + SEARCHED_AT_ONCE + SEARCH_WIDTH - 1]
            windows = np.lib.stride_tricks.sliding_window_view(piece, SEARCH_WIDTH)
            values = np.ascontiguousarray(windows).view("<u8").ravel()
            for place in np.flatnonzero(np.isin(values, self._starts)):
                at = begin + int(place)
                found |= {data[at : at + length] for length in self._lengths[int(values[place])]} & self.parts
        return found


def find_leaks(source: Path, copy: Path) -> list[str]:
    """Texts of ``source`` that occur in ``copy``, each with its file in the copy. Empty if there are none."""
    needles, leaks = Needles.of(source), []
    for path in sorted(copy.rglob("*")):
        shown = str(path.relative_to(copy))
        found = needles.within(shown.lower().encode())
        for layer in _layers(_bytes_of(path), path.suffix) if path.is_file() else ():
            found |= needles.within(layer)
        leaks += [f"{needle.decode('utf-8', 'replace')!r} ({shown})" for needle in sorted(found)]
    return leaks


class _Texts:
    """The texts of a folder, whole, by line and, for paths, in parts; and the names of rewards, which a copy keeps."""

    def __init__(self) -> None:
        self.texts: set[str] = set()
        self.rewards: set[str] = set()

    def read_folder(self, source: Path) -> None:
        """Add names and contents of all files."""
        self._add_text(str(source.resolve()))
        for folder, folders, files in os.walk(source):
            for name in (*folders, *files):
                own = split_ending(name)[0]
                self.texts |= {own, Path(own).stem}
            for name in files:
                path = Path(folder, name)
                if path.suffix in (".json", ".jsonl") and path.is_file() and not path.is_symlink():
                    self._read_file(path)

    def _read_file(self, path: Path) -> None:
        with path.open("rb") as file:
            for content in file if path.suffix == ".jsonl" else [file.read()]:
                try:
                    self._add(json.loads(content.decode("utf-8")), "")
                except (ValueError, RecursionError):
                    continue

    def _add(self, value: Any, field: str) -> None:
        if field in _PROGRAM_FIELDS and not isinstance(value, list):
            self.rewards |= set(value if field == "rewards" and isinstance(value, dict) else ())
        elif isinstance(value, dict):
            for name, entry in value.items():
                if not name.isidentifier() and not _PROGRAM_KEY.fullmatch(name):
                    self._add_text(name)
                self._add(entry, name)
        elif isinstance(value, list):
            self.rewards |= {entry for entry in value if field == "reward_funcs" and isinstance(entry, str)}
            for entry in value:
                self._add(entry, field)
        elif isinstance(value, str) and (field in _IDENTIFIERS or not _is_number(value)):
            self._add_text(value)
        elif field in _IDENTIFIERS and isinstance(value, int | float) and not isinstance(value, bool):
            self.texts.add(str(value))

    def _add_text(self, text: str) -> None:
        for part in text.removeprefix("--").split("=", 1) if text.startswith("--") else [text]:
            self.texts |= {split_ending(line)[0] for line in (part, *part.splitlines())}
        if "/" in text or "\\" in text:
            parts = re.split(r"[/\\]", text)
            own = [split_ending(part)[0] for part in parts]
            self.texts |= {name for part in own for name in (part, part.rpartition(".")[0])}


def _is_number(text: str) -> bool:
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False


def _known_words() -> set[str]:
    """Fixed words of the file formats, in lower case."""
    words = set().union(*map(format_words, known_rules())) | PSEUDONYM_KINDS | FIXED_FOLDERS | FIXED_NAMES
    words |= {Path(name).stem for name in FIXED_NAMES} | {"true", "false", "null", "none", "nan", "json", "jsonl"}
    return {word.lower() for word in words}


def _bytes_of(path: Path) -> bytes:
    """The bytes of a file that can hold a text: of weights, their header."""
    with path.open("rb") as file:
        if path.suffix != ".safetensors":
            return file.read()
        head = file.read(8)
        return head + file.read(int.from_bytes(head, "little"))


def _layers(data: bytes, suffix: str, depth: int = 0) -> Iterator[bytes]:
    """The bytes of a file in lower case, its texts without JSON's escapes, and what is packed or encoded in it."""
    yield data.lower()
    if suffix in (".json", ".jsonl"):
        yield "\n".join(_plain_texts(data, suffix == ".jsonl")).lower().encode("utf-8", "replace")
    if depth == DEPTH:
        return
    yield b"\0".join(map(_decoded, _BASE64.findall(_PSEUDONYM.sub(b"\0", data)))).lower()
    for inner in _unpacked(data):
        yield from _layers(inner, "", depth + 1)


def _decoded(code: bytes) -> bytes:
    try:
        return base64.b64decode(code + b"=" * (-len(code) % 4))
    except (binascii.Error, ValueError):
        return b""


def _unpacked(data: bytes) -> Iterator[bytes]:
    try:
        if data.startswith(b"\x1f\x8b"):
            yield gzip.decompress(data)
        elif data.startswith(b"PK"):
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                yield from (archive.read(name) for name in archive.namelist())
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error):
        return


def _plain_texts(data: bytes, is_lines: bool) -> Iterator[str]:
    for line in data.splitlines() if is_lines else [data]:
        yield from _leaves(json.loads(line))


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, entry in value.items():
            yield name
            yield from _leaves(entry)
    elif isinstance(value, list):
        for entry in value:
            yield from _leaves(entry)
    elif isinstance(value, str):
        yield value

"""Tensors of a checkpoint on disk: listed without being read, and read without a second copy in memory.

Files are memory-mapped. Pages of a mapping count as memory of the process until it is closed. Therefore a mapping is
closed and opened again after every ``WINDOW`` bytes, and larger tensors are copied in blocks of rows.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from swift.utils.errors import UserError
from swift.utils.files import read_json
from swift.utils.plain_pickles import read_plain_pickle

NAMED = 12  # names in a message
WINDOW = 32 * 2**20  # bytes
INDEX = ".index.json"
SINGLE_FILES = ("model.safetensors", "pytorch_model.bin")
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True)
class Stored:
    """One tensor on disk."""

    file: Path
    key: str  # its name in the file
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Size on disk, bytes."""
        return self.dtype.itemsize * torch.Size(self.shape).numel()


def find_shards(folder: Path) -> list[Path]:
    """The weight files of a full checkpoint: one file, or all files that its index names. Raises UserError if there are
    none, if the index names a missing file or tensor, and if shards have no index."""
    for name in SINGLE_FILES:
        index = folder / f"{name}{INDEX}"
        if (folder / name).is_file():
            return [folder / name]
        if index.is_file():
            return _indexed(index)
    stray = sorted(folder.glob("model*.safetensors")) + sorted(folder.glob("pytorch_model*.bin"))
    if stray:
        raise UserError(f"{folder}: {stray[0].name} is a shard but no index lists the shards; copy the index too")
    raise UserError(f"{folder}: no weights; it should hold model.safetensors or shards with model.safetensors{INDEX}")


def list_tensors(files: Iterable[Path]) -> dict[str, Stored]:
    """Every tensor of ``files`` by its key. Raises UserError for a file that is truncated or holds other objects than
    tensors, and for a key that is in two files."""
    tensors: dict[str, Stored] = {}
    for file in files:
        with _Mapping(file) as mapping:
            for key, (dtype, shape) in mapping.listing().items():
                if key in tensors:
                    raise UserError(
                        f"{file}: {key} is also in {tensors[key].file.name}; remove the shard of another save"
                    )
                tensors[key] = Stored(file, key, dtype, shape)
    return tensors


@torch.no_grad()
def copy_tensors(pairs: Iterable[tuple[Stored, Tensor]]) -> None:
    """Copy tensors from disk into tensors of the same shape, of any type and on any device."""
    by_file: dict[Path, list[tuple[Stored, Tensor]]] = defaultdict(list)
    for stored, target in pairs:
        by_file[stored.file].append((stored, target))
    for file, wanted in by_file.items():
        mapping = _Mapping(file)
        taken = 0
        for stored, target in wanted:
            for start, end in _blocks(stored):
                if taken >= WINDOW:
                    mapping.close()
                    mapping, taken = _Mapping(file), 0
                rows = mapping.rows(stored.key, start, end)
                (target if start is None else target[start:end]).copy_(rows)
                taken += rows.nbytes
                del rows
        mapping.close()


def read_tensor(stored: Stored) -> Tensor:
    """One tensor in memory of its own, in its stored type."""
    value = torch.empty(stored.shape, dtype=stored.dtype)
    copy_tensors([(stored, value)])
    return value


def same_bytes(first: Stored, second: Stored) -> bool:
    """True if two tensors on disk are equal in type, shape and bits."""
    if (first.dtype, first.shape) != (second.dtype, second.shape):
        return False
    with _Mapping(first.file) as left, _Mapping(second.file) as right:
        for start, end in _blocks(first):
            if not torch.equal(bits(left.rows(first.key, start, end)), bits(right.rows(second.key, start, end))):
                return False
            left.reopen()
            right.reopen()
    return True


def bits(value: Tensor) -> Tensor:
    """The bytes of a tensor, [nbytes] uint8. Unlike values, equal NaNs compare as equal in them."""
    return value.contiguous().reshape(-1).view(torch.uint8)


def digest_first_rows(tensors: Mapping[str, Stored]) -> str:
    """SHA-256 over the shapes and first rows of the floating-point ``tensors``, in bfloat16. Weights of different
    trainings give different digests. Names, order and repeated tensors do not count."""
    by_file: dict[Path, list[Stored]] = defaultdict(list)
    for stored in tensors.values():
        if stored.dtype.is_floating_point:
            by_file[stored.file].append(stored)
    rows = set()
    for file, wanted in by_file.items():
        with _Mapping(file) as mapping:
            for stored in wanted:
                row = mapping.rows(stored.key, 0, 1) if stored.shape else mapping.rows(stored.key, None, None)
                content = bits(row.to(torch.bfloat16)).numpy().tobytes()
                rows.add(hashlib.sha256(f"{tuple(stored.shape)}".encode() + content).digest())
    return hashlib.sha256(b"".join(sorted(rows))).hexdigest()


def listed(label: str, names: Collection[str]) -> str:
    """Count of ``names``, the label, and the first names, for messages; "" if there are no names."""
    if not names:
        return ""
    more = len(names) - NAMED
    return f"{len(names)} {label}: " + ", ".join(sorted(names)[:NAMED]) + (f" and {more} more" if more > 0 else "")


def _indexed(index: Path) -> list[Path]:
    try:
        places: Mapping[str, str] = read_json(index, "copy it again")["weight_map"]
        names = sorted(set(places.values()))
        if not all(isinstance(name, str) for name in names):
            raise TypeError("weight_map must name a file for every tensor")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{index} cannot be read ({error!r}); copy it again") from error
    missing = [name for name in names if Path(name).name != name or not (index.parent / name).is_file()]
    if missing:
        raise UserError(f"{index} names {', '.join(missing)}, not in the folder; copy the missing shards")
    files = [index.parent / name for name in names]
    held = list_tensors(files)
    if lost := sorted(key for key, name in places.items() if key not in held or held[key].file.name != name):
        raise UserError(
            f"{index} names {len(lost)} tensors that its shards lack, e.g. {lost[0]} in {places[lost[0]]}; "
            "index and shards are of different saves"
        )
    return files


def _blocks(stored: Stored) -> Iterator[tuple[int | None, int | None]]:
    """Ranges of rows of at most ``WINDOW`` bytes; (None, None) for a tensor that is read whole."""
    if stored.nbytes <= WINDOW or not stored.shape:
        yield None, None
        return
    step = max(1, WINDOW * stored.shape[0] // stored.nbytes)
    for start in range(0, stored.shape[0], step):
        yield start, min(start + step, stored.shape[0])


class _Mapping:
    """An open weight file, safetensors or a pickle of plain tensors. Tensors it returns live as long as it is open."""

    def __init__(self, file: Path):
        self.file = file
        self.reopen()

    def __enter__(self) -> _Mapping:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def reopen(self) -> None:
        """Release the pages read so far."""
        self._handle = None
        if self.file.suffix != ".safetensors":
            mappable = zipfile.is_zipfile(self.file)  # the format before torch 1.6 is not
            remedy = "save the weights as safetensors if you trust them"
            self._handle = read_plain_pickle(self.file, remedy, mapped=mappable)
            if not isinstance(self._handle, dict) or not all(isinstance(key, str) for key in self._handle):
                raise UserError(f"{self.file}: holds something other than tensors by name; copy the file again")
            return
        try:
            self._handle = safe_open(self.file, framework="pt")
        except (OSError, SafetensorError) as error:
            raise UserError(f"{self.file} cannot be read ({_first_line(error)}); copy the file again") from error

    def close(self) -> None:
        self._handle = None

    def listing(self) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        """Type and shape of every tensor."""
        if not isinstance(self._handle, dict):
            return {key: self._describe(key) for key in self._handle.keys()}  # noqa: SIM118 -- not a mapping
        values = self._handle.items()
        if strange := [key for key, value in values if not isinstance(value, Tensor)]:
            raise UserError(f"{self.file}: {strange[0]} is not a tensor; give the weights alone, not a training state")
        return {key: (value.dtype, tuple(value.shape)) for key, value in values}

    def rows(self, key: str, start: int | None, end: int | None) -> Tensor:
        """Rows ``start`` to ``end`` of a tensor; the whole tensor if they are None."""
        if isinstance(self._handle, dict):
            return self._handle[key][start:end] if start is not None else self._handle[key]
        return self._handle.get_slice(key)[start:end] if start is not None else self._handle.get_tensor(key)

    def _describe(self, key: str) -> tuple[torch.dtype, tuple[int, ...]]:
        header = self._handle.get_slice(key)
        if header.get_dtype() not in DTYPES:
            raise UserError(f"{self.file}: {key} has type {header.get_dtype()}, which is not supported; convert it")
        return DTYPES[header.get_dtype()], tuple(header.get_shape())


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]

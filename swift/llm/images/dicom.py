"""Radiographs in DICOM files, in the view that a viewer opens with.

Stored values pass through the modality LUT or rescale. Then they pass through the first VOI LUT, else the first window,
else a window of the image's own range. MONOCHROME1 is inverted and pixel padding is black (PS3.3 C.7.6.3, C.11).
Pydicom is needed and loaded when the first DICOM file is opened. The messages of UserErrors here begin with a verb. The
caller puts the image's name before them.
"""

from __future__ import annotations

import functools
import zlib
from types import ModuleType
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from swift.llm.images.windowing import eight_bits, spread_range, window
from swift.utils.errors import UserError
from swift.utils.logger import get_logger

if TYPE_CHECKING:
    from pydicom import Dataset

MAGIC, MAGIC_AT = b"DICM", 128
INVERTED, GRAY, PALETTE = "MONOCHROME1", ("MONOCHROME1", "MONOCHROME2"), "PALETTE COLOR"
COLOR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", PALETTE)
BITS = (1, 8, 16)
DEFLATED, LARGEST_INFLATED = b"1.2.840.10008.1.2.1.99", 600_000_000  # bytes; 89 million pixels in color take 534


def is_dicom(stream: BinaryIO) -> bool:
    """True if the content is a DICOM file, with or without a preamble. Leaves ``stream`` at its beginning."""
    head = stream.read(MAGIC_AT + len(MAGIC))
    stream.seek(0)
    return head[MAGIC_AT:] == MAGIC or _begins_with_element(head)


def _begins_with_element(head: bytes) -> bool:
    """True if the first bytes are a data element of the first groups, 0002 or 0008, as a file without preamble begins:
    with a value representation of two capital letters, or with a length that fits into a header."""
    if len(head) < 8:
        return False
    for order in ("little", "big"):
        group, element = (int.from_bytes(head[place : place + 2], order) for place in (0, 2))
        length = int.from_bytes(head[4:8], order)
        if group in (2, 8) and element < 0x1200 and ((head[4:6].isalpha() and head[4:6].isupper()) or length < 256):
            return True
    return False


def read_dicom(stream: BinaryIO, pixels: bool = True) -> Dataset:
    """The data set of a DICOM file that holds one image, with its pixels not yet decoded.

    Without ``pixels`` only the part before them is read. Raises UserError for DICOM files that cannot be shown and if
    pydicom is missing, and pydicom's own errors for broken files.
    """
    pydicom = _pydicom()
    _check_inflated(stream)
    dataset = pydicom.dcmread(stream, stop_before_pixels=not pixels, force=True)
    if "TransferSyntaxUID" not in dataset.file_meta:
        dataset.file_meta.TransferSyntaxUID = _inferred_syntax(pydicom, dataset)
    if not dataset.get("Rows") or not dataset.get("Columns") or (pixels and "PixelData" not in dataset):
        raise UserError(f"is a DICOM file without an image ({dataset.get('Modality', 'no modality')}); leave it out")
    if (frames := int(dataset.get("NumberOfFrames") or 1)) > 1:
        raise UserError(f"is a DICOM file of {frames} frames; save the frame that is meant as an image of its own")
    if (photometric := dataset.get("PhotometricInterpretation")) not in (*GRAY, *COLOR):
        raise UserError(f"is a DICOM image of kind {photometric}, not one of {', '.join((*GRAY, *COLOR))}; convert it")
    if (bits := dataset.get("BitsAllocated")) not in BITS:
        raise UserError(f"is a DICOM image with {bits} bits allocated, not one of {BITS}; convert it")
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax.is_compressed and not _can_decode(pydicom, syntax):
        raise UserError(
            f"is a DICOM image compressed as {syntax.name}, which no installed decoder reads; "
            "pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg, or convert it"
        )
    return dataset


def _check_inflated(stream: BinaryIO) -> None:
    """Raise UserError for a deflated file that is larger than any radiograph once it is inflated, as pydicom does with
    all of it at once. Leaves ``stream`` at its beginning."""
    head = stream.read(4096)
    stream.seek(0)
    if DEFLATED not in head:
        return
    group_length = int.from_bytes(head[140:144], "little")  # of the file meta information, its first element
    stream.seek(144 + group_length)
    inflate, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
    while size <= LARGEST_INFLATED and (packed := inflate.unconsumed_tail or stream.read(1 << 16)):
        size += len(inflate.decompress(packed, 1 << 20))
    stream.seek(0)
    if size > LARGEST_INFLATED:
        raise UserError(
            f"is a deflated DICOM file of over {LARGEST_INFLATED / 1e6:.0f} MB; inflate it, or leave it out"
        )


def _inferred_syntax(pydicom: ModuleType, dataset: Dataset) -> str:
    """The transfer syntax of a file that names none, by the encoding in which pydicom could read it."""
    is_implicit, is_little = dataset.original_encoding
    if is_implicit:
        return pydicom.uid.ImplicitVRLittleEndian
    return pydicom.uid.ExplicitVRLittleEndian if is_little else pydicom.uid.ExplicitVRBigEndian


def decode_dicom(dataset: Dataset, outliers: float = 0.0, name: str = "an image") -> np.ndarray:
    """The image as uint8, [rows, columns] if gray and [rows, columns, 3] if in color. Raises pydicom's own errors for
    broken pixels.

    If the file has no window, or one that cannot be used, the range of its values is shown without the share
    ``outliers`` at either end. ``name`` is for the warning.
    """
    stored = _pydicom().pixels.pixel_array(dataset)
    if dataset.PhotometricInterpretation in GRAY:
        return _show_gray(dataset, stored, outliers, name)
    if dataset.PhotometricInterpretation == PALETTE:
        stored = _pydicom().pixels.apply_color_lut(stored, dataset)
        full = np.iinfo(stored.dtype).max
    else:
        full = 2**dataset.BitsStored - 1
    return stored if full == 255 else eight_bits(stored / full)


def _show_gray(dataset: Dataset, stored: np.ndarray, outliers: float, name: str) -> np.ndarray:
    """Gray levels of the pixels. They depend on the stored value alone, so each value in the range is computed once."""
    low = int(stored.min())
    places = stored.astype(np.int32) - low
    counts = np.bincount(places.ravel())
    levels = np.arange(low, low + len(counts))
    padding = _is_padding(dataset, levels)
    values = _modality(dataset, levels)
    inverted = dataset.PhotometricInterpretation == INVERTED
    shares = _voi(dataset, values, name)
    if shares is None:
        seen = np.where((counts > 0) & ~padding, values, np.nan)
        shown = spread_range(seen, inverted, outliers, counts)
    else:
        shown = eight_bits(shares, inverted)
    return np.where(padding, np.uint8(0), shown)[places]


def _is_padding(dataset: Dataset, levels: np.ndarray) -> np.ndarray:
    first = dataset.get("PixelPaddingValue")
    if first is None:
        return np.zeros(len(levels), dtype=bool)
    low, high = sorted((first, dataset.get("PixelPaddingRangeLimit", first)))
    return (low <= levels) & (levels <= high)


def _modality(dataset: Dataset, levels: np.ndarray) -> np.ndarray:
    """Stored values in the unit of the windows, float64."""
    if sequence := dataset.get("ModalityLUTSequence"):
        return _look_up(dataset, sequence[0], levels)
    slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
    return levels * float(1 if slope is None else slope) + float(intercept or 0)


def _voi(dataset: Dataset, values: np.ndarray, name: str) -> np.ndarray | None:
    """Shares of full brightness, 0..1; None if the file has neither a VOI LUT nor a window that can be used."""
    if sequence := dataset.get("VOILUTSequence"):
        bits = sequence[0].LUTDescriptor[2]
        return np.clip(_look_up(dataset, sequence[0], values) / (2**bits - 1), 0, 1)
    center, width = (_first(dataset.get(name)) for name in ("WindowCenter", "WindowWidth"))
    if center is None or width is None:
        return None
    try:
        return window(values, center, width, str(dataset.get("VOILUTFunction") or "LINEAR").upper())
    except ValueError as error:
        _warn_of_window(name, str(error))
        return None


@functools.lru_cache(maxsize=4096)
def _warn_of_window(name: str, reason: str) -> None:
    """Warn once of a file whose window cannot be used."""
    get_logger().warning(
        "image %s: its DICOM window cannot be used (%s); the range of its values is shown", name, reason
    )


def _first(value: object) -> float | None:
    """The first number of an element that may be missing, empty, one number or several."""
    if value is None or value == "":
        return None
    if isinstance(value, str) or not hasattr(value, "__len__"):
        return float(value)
    return float(value[0]) if len(value) else None


def _look_up(dataset: Dataset, table: Dataset, values: np.ndarray) -> np.ndarray:
    """``values`` through a LUT. Its first and last entries count for all values below and above it (PS3.3 C.11.1.1)."""
    entries, first = table.LUTDescriptor[0] or 2**16, table.LUTDescriptor[1]
    data = table.LUTData
    if isinstance(data, bytes):
        little = dataset.file_meta.TransferSyntaxUID.is_little_endian
        kind = "u1" if len(data) == entries else "<u2" if little else ">u2"
        data = np.frombuffer(data, dtype=kind)
    data = np.asarray(data, dtype=np.float64)[:entries]
    return data[np.clip(np.rint(values).astype(np.int64) - first, 0, len(data) - 1)]


def _can_decode(pydicom: ModuleType, syntax: str) -> bool:
    try:
        return pydicom.pixels.get_decoder(syntax).is_available
    except NotImplementedError:
        return False


def _pydicom() -> ModuleType:
    try:
        import pydicom
        import pydicom.pixels
    except ImportError as error:
        raise UserError("is a DICOM file, and reading it needs pydicom; pip install pydicom") from error
    return pydicom

"""Images of several channels with more than 8 bits, of which Pillow hands over the high bytes only or nothing.

PNG is decoded here. A TIFF is handed to Pillow as an image of single bytes, by a second directory at its end that
points to the same strips or tiles; the bytes are then put together to samples.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, TiffImagePlugin

from swift.utils.errors import UserError

PNG_MAGIC, TIFF_MAGICS = b"\x89PNG\r\n\x1a\n", (b"II*\0", b"MM\0*")
TEXT_CHUNKS, LONGEST_TEXT = (b"tEXt", b"zTXt", b"iTXt"), 65_536  # bytes that a text chunk may have to be kept
PNG_CHANNELS = {2: 3, 4: 2, 6: 4}  # by color type: RGB, gray with alpha, RGBA
WIDTH, HEIGHT, SAMPLE_BITS, COMPRESSION, PHOTOMETRIC, ORIENTATION, PIXEL_SAMPLES = 256, 257, 258, 259, 262, 274, 277
STRIP_PLACES, ROWS_PER_STRIP, STRIP_BYTES, PLANAR, PREDICTOR = 273, 278, 279, 284, 317
TILE_WIDTH, TILE_HEIGHT, TILE_PLACES, TILE_BYTES, EXTRA_SAMPLES, SAMPLE_FORMAT = 322, 323, 324, 325, 338, 339
TOGETHER, IN_PLANES = 1, 2  # samples of a pixel side by side, or each in an image of its own
NO_PREDICTOR, DIFFERENCES = 1, 2
ASSOCIATED, UNASSOCIATED = 1, 2
UNSIGNED, SIGNED, FLOAT = 1, 2, 3
READ_MODELS = (0, 1, 2)  # color models: gray with white or black at 0, and RGB


# First column and row, and steps between columns and rows, of the parts of an interlaced PNG (PNG 1.2, section 2.6).
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
WHOLE = ((0, 0, 1, 1),)


@dataclass(frozen=True)
class DeepImage:
    """An image of several deep channels. ``channels`` counts them without alpha. ``alpha`` is ASSOCIATED if colors are
    multiplied by it already, UNASSOCIATED if not, None if there is none. ``orientation`` is EXIF's. ``inverted`` images
    have low values for bright."""

    width: int
    height: int
    channels: int
    alpha: int | None
    orientation: int
    read: Callable[[], np.ndarray]  # [height, width, samples], as stored
    inverted: bool = False


def deep_image(stream: BinaryIO) -> DeepImage | None:
    """The image in ``stream`` if it is a PNG or TIFF of several deep channels, else None. Only its header is read.
    Leaves ``stream`` at its beginning."""
    head = stream.read(8)
    stream.seek(0)
    found = _deep_png(stream) if head == PNG_MAGIC else None
    if head[:4] in TIFF_MAGICS:
        found = _deep_tiff(stream, head)
    stream.seek(0)
    return found


def without_long_texts(stream: BinaryIO) -> BinaryIO:
    """``stream``, or a copy without the text chunks that Pillow refuses to read if it is a PNG that has any."""
    magic = stream.read(8)
    stream.seek(0)
    if magic != PNG_MAGIC:
        return stream
    chunks = list(_png_chunks(stream))
    refused = [(start, length) for kind, start, length in chunks if _is_long_text(stream, kind, start, length)]
    stream.seek(0)
    if not refused:
        return stream
    data, kept, done = stream.read(), [], 0
    for start, length in refused:
        kept.append(data[done : start - 8])  # length and kind stand before a chunk's content, its checksum after it
        done = start + length + 4
    return io.BytesIO(b"".join([*kept, data[done:]]))


def _is_long_text(stream: BinaryIO, kind: bytes, start: int, length: int) -> bool:
    if kind not in TEXT_CHUNKS:
        return False
    if kind == b"zTXt" or length > LONGEST_TEXT:
        return True
    stream.seek(start)
    rest = stream.read(length).partition(b"\0")[2]
    return kind == b"iTXt" and rest[:1] != b"\0"  # compressed


def _png_chunks(stream: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """(kind, place of the content, its length) of each chunk, as far as the file reaches."""
    stream.seek(8)
    while len(head := stream.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        start = stream.tell()
        yield kind, start, length
        stream.seek(start + length + 4)


def _deep_png(stream: BinaryIO) -> DeepImage | None:
    stream.seek(8)
    header = stream.read(25)
    if len(header) < 25 or header[4:8] != b"IHDR":
        return None
    width, height, bits, color, *_, interlaced = struct.unpack(">IIBBBBB", header[8:21])
    if bits != 16 or color not in PNG_CHANNELS:
        return None
    samples = PNG_CHANNELS[color]
    alpha = UNASSOCIATED if color in (4, 6) else None

    def read() -> np.ndarray:
        parts = []
        for kind, start, length in list(_png_chunks(stream)):
            if kind == b"IDAT":
                stream.seek(start)
                parts.append(stream.read(length))
        return _png_pixels(zlib.decompressobj(), b"".join(parts), (height, width, samples), bool(interlaced))

    return DeepImage(width, height, samples - bool(alpha), alpha, _png_orientation(stream), read)


def _png_pixels(inflate: Any, packed: bytes, shape: tuple[int, int, int], interlaced: bool) -> np.ndarray:
    """The pixels of ``shape`` (height, width, samples) in the compressed rows of a PNG of 16 bits."""
    values = np.empty(shape, np.uint16)
    places = [values[y::down, x::right] for x, y, right, down in (ADAM7 if interlaced else WHOLE)]
    places = [place for place in places if place.size]
    lengths = [place.shape[0] * (1 + place[0].size * 2) for place in places]
    data = inflate.decompress(packed, sum(lengths))
    if len(data) < sum(lengths):
        raise ValueError(f"its pixels end after {len(data)} of {sum(lengths)} bytes")
    start = 0
    for place, length in zip(places, lengths, strict=True):
        height, width, samples = place.shape
        rows = np.frombuffer(data, np.uint8, length, start).reshape(height, -1)
        place[:] = unfiltered(rows, width, samples * 2).reshape(height, -1).view(">u2").reshape(place.shape)
        start += length
    return values


def _png_orientation(stream: BinaryIO) -> int:
    exif = Image.Exif()
    for kind, start, length in list(_png_chunks(stream)):
        if kind == b"eXIf":
            stream.seek(start)
            exif.load(stream.read(length))
    return int(exif.get(ORIENTATION, 1))


def unfiltered(rows: np.ndarray, width: int, step: int) -> np.ndarray:
    """The bytes [H, width, step] of PNG rows [H, 1 + width * step], each with its filter in front (PNG 1.2, section 6).

    A pixel needs those to its left, above, and above left. So all pixels of an anti-diagonal are computed at once.
    """
    height = len(rows)
    kinds, coded = rows[:, 0], rows[:, 1:].reshape(height, width, step)
    if kinds.max(initial=0) > 4:
        raise ValueError(f"a row has the unknown filter {kinds.max()}")
    if not kinds.any():
        return np.ascontiguousarray(coded)
    out = np.zeros((height + 1, width + 1, step), np.int16)
    for diagonal in range(height + width - 1):
        y = np.arange(max(0, diagonal - width + 1), min(height, diagonal + 1))
        x = diagonal - y
        left, above, corner = out[y + 1, x], out[y, x + 1], out[y, x]
        out[y + 1, x + 1] = (coded[y, x] + _predicted(kinds[y, None], left, above, corner)) & 255
    return np.ascontiguousarray(out[1:, 1:].astype(np.uint8))


def _predicted(kinds: np.ndarray, left: np.ndarray, above: np.ndarray, corner: np.ndarray) -> np.ndarray:
    """The prediction of each filter kind: none, left, above, their mean, Paeth's choice among all three."""
    to_left, to_above = np.abs(above - corner), np.abs(left - corner)
    to_corner = np.abs(left + above - 2 * corner)
    nearest = np.where(to_above <= to_corner, above, corner)
    paeth = np.where((to_left <= to_above) & (to_left <= to_corner), left, nearest)
    return np.select([kinds == 0, kinds == 1, kinds == 2, kinds == 3], [0, left, above, (left + above) >> 1], paeth)


def _deep_tiff(stream: BinaryIO, head: bytes) -> DeepImage | None:
    tags: Any = TiffImagePlugin.ImageFileDirectory_v2(head)
    stream.seek(tags.next)
    tags.load(stream)
    bits, samples = tags.get(SAMPLE_BITS, (1,)), tags.get(PIXEL_SAMPLES, 1)
    planar, photometric = tags.get(PLANAR, TOGETHER), tags.get(PHOTOMETRIC)
    if max(bits) <= 8 or (samples == 1 and planar != IN_PLANES):
        return None  # Pillow keeps all bits of these
    if set(bits) - {16, 32} or len(set(bits)) > 1 or photometric not in READ_MODELS:
        depth = "/".join(map(str, sorted(set(bits))))
        raise UserError(f"has {samples} channels of {depth} bits in color model {photometric}; convert it to PNG")
    extra = tags.get(EXTRA_SAMPLES, ())
    alpha = extra[0] if extra and extra[0] in (ASSOCIATED, UNASSOCIATED) else None
    kind = tags.get(SAMPLE_FORMAT, (UNSIGNED,))[0]
    letter = {UNSIGNED: "u", SIGNED: "i", FLOAT: "f"}.get(kind)
    if letter is None:
        raise UserError(f"has {samples} channels of sample format {kind}; convert it to PNG")
    order = "<" if head[:2] == b"II" else ">"
    dtype = np.dtype(f"{order}{letter}{bits[0] // 8}")
    width, height = tags[WIDTH], tags[HEIGHT]

    def read() -> np.ndarray:
        predictor = tags.get(PREDICTOR, NO_PREDICTOR)
        if predictor not in (NO_PREDICTOR, DIFFERENCES) or (predictor == DIFFERENCES and letter == "f"):
            raise ValueError(f"its predictor {predictor} is not read for several deep channels")
        stream.seek(0)
        data = stream.read()
        planes = samples if planar == IN_PLANES else 1
        parts = []
        for plane in range(planes):
            pixel = dtype.itemsize * samples // planes
            inner = Image.open(io.BytesIO(_as_bytes(data, tags, pixel, order, (plane, planes))), formats=["TIFF"])
            parts.append(np.asarray(inner).reshape(height, -1).view(dtype).reshape(height, width, samples // planes))
        values = np.concatenate(parts, axis=2)
        return np.cumsum(values, axis=1, dtype=dtype.newbyteorder("=")) if predictor == DIFFERENCES else values

    return DeepImage(width, height, samples - len(extra), alpha, int(tags.get(ORIENTATION, 1)), read, photometric == 0)


def _as_bytes(data: bytes, tags: Any, pixel: int, order: str, part: tuple[int, int]) -> bytes:
    """The TIFF with a directory that describes rows of ``pixel`` times as many single bytes, in the strips or tiles of
    one plane: ``part`` is its number from 0, and the number of planes."""
    plane, planes = part

    def of_plane(tag: int) -> list[int]:
        numbers = list(tags[tag])
        each = len(numbers) // planes
        return numbers[plane * each : (plane + 1) * each]

    entries = {
        WIDTH: [tags[WIDTH] * pixel],
        HEIGHT: [tags[HEIGHT]],
        SAMPLE_BITS: [8],
        PHOTOMETRIC: [1],
        PIXEL_SAMPLES: [1],
    }
    entries[COMPRESSION] = [tags.get(COMPRESSION, 1)]
    if TILE_PLACES in tags:
        entries |= {TILE_WIDTH: [tags[TILE_WIDTH] * pixel], TILE_HEIGHT: [tags[TILE_HEIGHT]]}
        entries |= {TILE_PLACES: of_plane(TILE_PLACES), TILE_BYTES: of_plane(TILE_BYTES)}
    else:
        entries |= {ROWS_PER_STRIP: [min(tags.get(ROWS_PER_STRIP, tags[HEIGHT]), tags[HEIGHT])]}
        entries |= {STRIP_PLACES: of_plane(STRIP_PLACES), STRIP_BYTES: of_plane(STRIP_BYTES)}
    start = len(data) + len(data) % 2
    after = start + 2 + 12 * len(entries) + 4
    lines, lists = [], b""
    for tag, values in sorted(entries.items()):
        place = struct.pack(f"{order}I", values[0] if len(values) == 1 else after + len(lists))
        lines.append(struct.pack(f"{order}HHI", tag, 4, len(values)) + place)
        lists += struct.pack(f"{order}{len(values)}I", *values) if len(values) > 1 else b""
    directory = struct.pack(f"{order}H", len(entries)) + b"".join(lines) + bytes(4) + lists
    return data[:4] + struct.pack(f"{order}I", start) + data[8:].ljust(start - 8, b"\0") + directory

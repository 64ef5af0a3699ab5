"""Radiographs from untrusted files: their sources, and their pixels as 8-bit RGB.

Only still-image formats are opened, each by Pillow's own decoder. Formats that run a helper program (EPS) stay closed.
Only the first page of a file counts. DICOM is recognized by its content and read by ``swift.llm.images.dicom``.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

from swift.llm.images.deep import UNASSOCIATED, DeepImage, deep_image, without_long_texts
from swift.llm.images.dicom import MAGIC, MAGIC_AT, decode_dicom, is_dicom, read_dicom
from swift.llm.images.windowing import OUTLIERS, spread_range
from swift.utils.errors import UserError

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF")
MAX_PIXELS = 89_000_000  # a large digital radiograph has 20 million; above this limit Pillow itself warns of a bomb
EXIF_ORIENTATION, QUARTER_TURNS = 0x0112, (5, 6, 7, 8)
TIFF_PHOTOMETRIC, WHITE_IS_ZERO, TIFF_SAMPLE_FORMAT = 262, 0, 339

_DATA_URI = re.compile(r"data:[^,]{0,200};base64,", re.IGNORECASE)
# The first bytes of PNG, JPEG, GIF, WebP and TIFF in base64. A path may also begin with "/9j/".
_BARE_BASE64 = re.compile(r"(iVBORw0KGgo|/9j/|R0lGOD|UklGR|SUkq|TU0AKg)[^.]{50,}", re.DOTALL)
_LONGEST_PATH = 4096


@dataclass(frozen=True)
class View:
    """The way an image is shown. Images of more than ``max_pixels`` are scaled down, keeping their aspect. The share
    ``outliers`` of the darkest and of the brightest pixels of a deep image without a window is cut off."""

    max_pixels: int | None = None
    outliers: float = OUTLIERS


@dataclass(frozen=True)
class ImageSource:
    """One image: a file (``path``), or the bytes that were in the record (``data``). ``name`` and ``place``, the
    field of the record that held the image, are for messages."""

    name: str
    path: Path | None = None
    data: bytes | None = field(default=None, repr=False)
    place: str = field(default="image", compare=False)
    view: View = View()

    @classmethod
    def from_path(cls, path: str | Path) -> ImageSource:
        """The image in a file; the file is not touched."""
        return cls(str(path), path=Path(path))

    @classmethod
    def from_base64(cls, text: str) -> ImageSource:
        """The image in a base64 text, bare or as a data URI. Raises UserError if the text is not base64."""
        prefix = _DATA_URI.match(text)
        payload = re.sub(r"\s+", "", text[prefix.end() :] if prefix else text)
        try:
            data = base64.b64decode(payload, validate=True)
        except (binascii.Error, ValueError) as error:
            raise UserError(f"the image is not valid base64 ({error}); encode the whole file again") from error
        return cls(f"a base64 image of {len(data)} bytes", data=data)

    @cached_property
    def key(self) -> str:
        """The same text for equal images in the same view: the path, or the digest of the bytes."""
        content = str(self.path) if self.data is None else "sha256:" + hashlib.sha256(self.data).hexdigest()
        return content if self.view == View() else f"{content} {self.view}"

    def open(self) -> BinaryIO:
        """The encoded bytes; the caller closes the stream. Raises UserError for a missing or unreadable file."""
        if self.data is not None:
            return io.BytesIO(self.data)
        if not self.path.is_file():
            if self.path.is_symlink():
                raise UserError(f"image {self.name} is a link to a file that is not there; fetch it (datalad get)")
            raise UserError(f"image {self.name} is missing; put the file there or pass --image_root")
        try:
            return self.path.open("rb")
        except OSError as error:
            raise UserError(f"image {self.name} cannot be read ({error.strerror}); fix its permissions") from error


def is_base64(text: str) -> bool:
    """True if an image field holds the image itself rather than a path."""
    return len(text) > _LONGEST_PATH or is_encoded_image(text)


def is_encoded_image(text: str) -> bool:
    """True if any text, also one that is not in an image field, begins like an image in base64."""
    return bool(_DATA_URI.match(text) or _BARE_BASE64.fullmatch(text)) or _is_base64_dicom(text)


def _is_base64_dicom(text: str) -> bool:
    """True if ``text`` encodes a file with DICOM's mark after its preamble of 128 bytes. Four characters encode three
    bytes."""
    start = MAGIC_AT // 3 * 4
    code = re.sub(r"\s+", "", text)[start : start + 8]
    try:
        return base64.b64decode(code, validate=True)[MAGIC_AT % 3 :] == MAGIC
    except (binascii.Error, ValueError):  # ValueError for text that is not ASCII
        return False


def open_image(source: ImageSource) -> Image.Image:
    """The image as 8-bit RGB, upright.

    If the image is deeper than 8 bits, its own range is spread over 0..255, as a viewer's default window does. A DICOM
    file is shown through its own window. Transparent pixels become black, the color of unexposed film borders. EXIF
    rotation is applied. Raises UserError, naming the image, for anything but an undamaged image of a known format.
    """
    with _reading(source) as stream:
        image = _decode(stream, source)
        size = _seen_size(*image.size, source.view)
        return image if size == image.size else image.resize(size, Image.Resampling.BICUBIC, reducing_gap=3)


def image_size(source: ImageSource) -> tuple[int, int]:
    """Upright (width, height) in pixels, read from the header alone. Raises UserError as :func:`open_image` does."""
    with _reading(source) as stream:
        if is_dicom(stream):
            header = read_dicom(stream, pixels=False)
            return _seen_size(*_checked_size(header.Columns, header.Rows), source.view)
        if (deep := deep_image(stream)) is not None:
            turned = deep.orientation in QUARTER_TURNS
            size = _checked_deep_size(deep)
            return _seen_size(*(reversed(size) if turned else size), source.view)
        image = _open(stream)
        # Image.getexif itself, because a PNG's own method decodes the pixels to look for a tag behind them.
        # A TIFF's size has been turned by Pillow already.
        turned = image.format != "TIFF" and Image.Image.getexif(image).get(EXIF_ORIENTATION) in QUARTER_TURNS
    width, height = image.size
    return _seen_size(*((height, width) if turned else (width, height)), source.view)


def check_image(source: ImageSource, decode: bool = True) -> None:
    """Raise UserError unless the image exists and is undamaged. ``decode=False`` trusts its header and checksums."""
    with _reading(source) as stream:
        if is_dicom(stream):
            _decode_dicom(stream, source) if decode else read_dicom(stream)
            return
        if (deep := deep_image(stream)) is not None:
            _checked_deep_size(deep)
            if decode:
                deep.read()
            return
        _open(stream).verify()
        if decode:
            stream.seek(0)
            image = _open(stream)
            image.draft("L", (1, 1))  # a JPEG is decoded at an eighth of its size, and every byte is still read
            image.load()


@contextmanager
def _reading(source: ImageSource) -> Iterator[BinaryIO]:
    """The source's bytes. Any error while they are decoded becomes a UserError that names the image."""
    with source.open() as file:
        try:
            yield without_long_texts(file)
        except UserError as error:
            raise UserError(f"image {source.name} {error}") from error
        except Image.UnidentifiedImageError as error:
            kinds = ", ".join((*FORMATS, "DICOM"))
            raise UserError(f"image {source.name} is not a {kinds} file; convert it to PNG") from error
        except Exception as error:  # decoders raise any type of error on broken bytes
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(
                f"image {source.name} is truncated or damaged ({reason}); copy or convert it again"
            ) from error


def _decode(stream: BinaryIO, source: ImageSource) -> Image.Image:
    if is_dicom(stream):
        return Image.fromarray(_decode_dicom(stream, source)).convert("RGB")
    if (deep := deep_image(stream)) is not None:
        _checked_deep_size(deep)
        image = _show_deep(deep, source.view.outliers)
        image.getexif()[EXIF_ORIENTATION] = deep.orientation
        return ImageOps.exif_transpose(image)
    image = _open(stream)
    photometric = image.tag_v2.get(TIFF_PHOTOMETRIC) if image.format == "TIFF" else None
    is_unsigned = image.format == "TIFF" and image.tag_v2.get(TIFF_SAMPLE_FORMAT, (1,))[0] == 1
    upright = ImageOps.exif_transpose(image)
    return _to_rgb(upright, photometric == WHITE_IS_ZERO, source.view.outliers, is_unsigned=is_unsigned)


def _show_deep(deep: DeepImage, outliers: float) -> Image.Image:
    """A deep image of several channels as RGB, all of them in one window. Transparent pixels become black."""
    values = deep.read()
    colors, inverted = values[..., : deep.channels], deep.inverted
    if inverted and values.dtype.kind == "u":  # before alpha, since what is transparent is black
        colors, inverted = np.iinfo(values.dtype).max - colors, False
    if deep.alpha == UNASSOCIATED:
        full = np.iinfo(values.dtype).max if values.dtype.kind in "iu" else 1.0
        colors = colors * (values[..., deep.channels :][..., :1] / full)
    shown = spread_range(np.ascontiguousarray(colors), inverted, outliers)
    return Image.fromarray(shown[..., 0] if deep.channels != 3 else shown).convert("RGB")


def _seen_size(width: int, height: int, view: View) -> tuple[int, int]:
    """(width, height) in pixels of an image of that size in ``view``."""
    if view.max_pixels is None or width * height <= view.max_pixels:
        return width, height
    scale = math.sqrt(view.max_pixels / (width * height))
    return max(1, int(width * scale)), max(1, int(height * scale))


def _open(stream: BinaryIO) -> Image.Image:
    image = Image.open(stream, formats=FORMATS)
    _checked_size(*image.size)
    return image


def _decode_dicom(stream: BinaryIO, source: ImageSource) -> np.ndarray:
    dataset = read_dicom(stream)
    _checked_size(dataset.Columns, dataset.Rows)
    return decode_dicom(dataset, source.view.outliers, source.name)


def _checked_size(width: int, height: int) -> tuple[int, int]:
    if width * height > MAX_PIXELS:
        raise UserError(f"has {width} x {height} pixels, over {MAX_PIXELS}; scale it down")
    return width, height


def _checked_deep_size(deep: DeepImage) -> tuple[int, int]:
    """(width, height) of a deep image, of which every channel counts: they take eight times the memory of 8 bits."""
    samples = deep.channels + (deep.alpha is not None)
    if deep.width * deep.height * samples > MAX_PIXELS:
        size = f"{deep.width} x {deep.height} pixels of {samples} deep channels"
        raise UserError(f"has {size}, over {MAX_PIXELS} values; scale it down")
    return deep.width, deep.height


def _to_rgb(image: Image.Image, white_is_zero: bool, outliers: float, *, is_unsigned: bool) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image)
        if image.mode == "I" and is_unsigned:  # Pillow reads 32 unsigned bits as signed ones
            values = values.view(np.uint32)
        # Pillow inverts TIFFs whose white is 0 only if they have 8 bits
        return Image.fromarray(spread_range(values, white_is_zero, outliers)).convert("RGB")
    if image.mode == "La":  # gray that is multiplied by its alpha already, so it stands on black
        return Image.fromarray(np.asarray(image)[..., 0]).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        return Image.alpha_composite(black, image).convert("RGB")
    return image.convert("RGB")

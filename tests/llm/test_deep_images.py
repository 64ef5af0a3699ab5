"""Images of several deep channels, unsigned 32 bits, alpha that is multiplied in, long PNG texts, and markers."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from swift.llm.images.deep import deep_image, unfiltered
from swift.llm.images.source import ImageSource, View, check_image, image_size, open_image
from swift.llm.images.windowing import spread_range
from swift.llm.prompting import view_of
from swift.utils.errors import UserError

RANDOM = np.random.default_rng(0)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(values: np.ndarray, color: int, filters: list[int], more: bytes = b"", passes: tuple = ()) -> bytes:
    """A 16-bit PNG with a filter per row, filtered byte by byte as the specification says. With ``passes`` it is
    interlaced: the rows of one reduced image after the other."""
    height, width, _ = values.shape
    coded = b"".join(filtered(part, filters) for part in ([values[where] for where in passes] if passes else [values]))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, color, 0, 0, bool(passes)))
    return b"\x89PNG\r\n\x1a\n" + header + more + chunk(b"IDAT", zlib.compress(coded)) + chunk(b"IEND", b"")


def filtered(values: np.ndarray, filters: list[int]) -> bytes:
    """The rows of an image, each with its filter in front. Nothing for an image without pixels."""
    if not values.size:
        return b""
    _, width, samples = values.shape
    step = samples * 2
    rows = values.astype(">u2").tobytes()
    rows = [rows[start : start + width * step] for start in range(0, len(rows), width * step)]
    coded = b""
    for y, row in enumerate(rows):
        before = rows[y - 1] if y else bytes(len(row))
        coded += bytes([filters[y]])
        for x, value in enumerate(row):
            left, above, corner = (
                row[x - step] if x >= step else 0,
                before[x],
                before[x - step] if x >= step else 0,
            )
            guess = left + above - corner
            paeth = min((left, above, corner), key=lambda near: abs(guess - near))
            coded += bytes([(value - [0, left, above, (left + above) // 2, paeth][filters[y]]) % 256])
    return coded


def with_tag(data: bytes, tag: int, value: int) -> bytes:
    """A TIFF, as written below, with another number under a tag."""
    start = data.index(struct.pack("<HHI", tag, 4, 1)) + 8
    return data[:start] + struct.pack("<I", value) + data[start + 4 :]


def tiff(values: np.ndarray, order: str = "<", compression: int = 1, predictor: int = 1, extra: int | None = None,
         tile: bool = False, planes: bool = False) -> bytes:  # fmt: skip
    """A TIFF of [height, width, samples] in strips of two rows, or in one tile; its samples together or in planes."""
    height, width, samples = values.shape
    stored = values.astype(values.dtype.newbyteorder(order))
    if predictor == 2:
        stored = np.diff(values, axis=1, prepend=np.zeros_like(values[:, :1])).astype(stored.dtype)
    rows = height if tile else 2
    images = [stored[..., plane] for plane in range(samples)] if planes else [stored]
    parts = [image[start : start + rows].tobytes() for image in images for start in range(0, height, rows)]
    if compression == 8:
        parts = [zlib.compress(part) for part in parts]
    places, body = [], b""
    for part in parts:
        places.append(8 + len(body))
        body += part
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    colors = samples - (extra is not None)
    entries = {256: [width], 257: [height], 258: [values.itemsize * 8] * samples, 259: [compression],
               262: [2 if colors == 3 else 1], 277: [samples], 317: [predictor], 339: [kind] * samples}  # fmt: skip
    entries |= {338: [extra]} if extra is not None else {}
    entries |= {284: [2]} if planes else {}
    if tile:
        entries |= {322: [width], 323: [height], 324: places, 325: [len(part) for part in parts]}
    else:
        entries |= {273: places, 278: [rows], 279: [len(part) for part in parts]}
    start = 8 + len(body) + len(body) % 2
    after, directory, lists = start + 2 + 12 * len(entries) + 4, struct.pack(f"{order}H", len(entries)), b""
    for tag, numbers in sorted(entries.items()):
        directory += struct.pack(f"{order}HHI", tag, 4, len(numbers))
        directory += struct.pack(f"{order}I", numbers[0] if len(numbers) == 1 else after + len(lists))
        lists += struct.pack(f"{order}{len(numbers)}I", *numbers) if len(numbers) > 1 else b""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", start)
    return (head + body).ljust(start, b"\0") + directory + bytes(4) + lists


def shown(data: bytes, **view) -> np.ndarray:
    source = ImageSource("film", data=data, view=View(**view))
    check_image(source)
    check_image(source, decode=False)
    image = open_image(source)
    assert image.mode == "RGB"
    assert image.size == image_size(source)
    return np.asarray(image)


def spread(values: np.ndarray) -> np.ndarray:
    """The range of values over 0..255, from the definition."""
    values = values.astype(np.float64)
    return np.rint((values - values.min()) / np.ptp(values) * 255)


def sixteen(*shape: int) -> np.ndarray:
    return RANDOM.integers(0, 4096, shape).astype(np.uint16)


@pytest.mark.parametrize("filters", [[0] * 6, [1] * 6, [2] * 6, [3] * 6, [4] * 6, [4, 3, 2, 1, 0, 4]])
def test_sixteen_bit_rgb_png_keeps_all_bits(filters):
    """By the high bytes alone, values below 4096 would be shown in 16 gray levels."""
    values = sixteen(6, 5, 3)
    assert np.array_equal(shown(png(values, 2, filters)), spread(values))


# Rows and columns of the seven reduced images of an interlaced PNG, as the specification draws them.
PASSES = tuple(
    (slice(row, None, down), slice(column, None, right))
    for row, column, down, right in [
        (0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)
    ]
)  # fmt: skip


@pytest.mark.parametrize(("height", "width"), [(9, 11), (1, 1), (2, 3), (8, 8), (1, 6), (5, 1)])
@pytest.mark.parametrize(("color", "samples"), [(2, 3), (4, 2), (6, 4)])
def test_an_interlaced_png_is_put_together(height, width, color, samples):
    values = RANDOM.integers(0, 65_536, (height, width, samples)).astype(np.uint16)
    filters = RANDOM.integers(0, 5, height).tolist()
    assert np.array_equal(deep_image(io.BytesIO(png(values, color, filters, passes=PASSES))).read(), values)


def test_an_interlaced_gray_png_is_shown():
    values = sixteen(6, 5, 1)
    data = png(values, 0, [0] * 6, passes=PASSES)
    assert np.array_equal(shown(data, outliers=0.0), np.repeat(spread(values), 3, axis=2))


def test_filters_are_undone_as_the_specification_says():
    values = RANDOM.integers(0, 65_536, (9, 7, 4)).astype(np.uint16)
    filters = RANDOM.integers(0, 5, 9).tolist()
    assert np.array_equal(deep_image(io.BytesIO(png(values, 6, filters))).read(), values)


def test_a_row_with_an_unknown_filter_is_refused():
    with pytest.raises(ValueError, match="unknown filter 5"):
        unfiltered(np.array([[5, 0, 0]], np.uint8), 1, 2)


@pytest.mark.parametrize("color", [4, 6])
def test_alpha_of_a_sixteen_bit_png_darkens(color):
    colors = 1 if color == 4 else 3
    values = np.full((1, 3, colors + 1), 60_000, np.uint16)
    values[0, :, -1] = 0, 32_768, 65_535
    # 60000 * 32768 / 65535 = 30000.5; the range is 0 to 60000
    assert shown(png(values, color, [0]))[0].tolist() == [[0] * 3, [128] * 3, [255] * 3]


def test_a_png_is_turned_upright():
    exif = Image.Exif()
    exif[274] = 6
    values = sixteen(2, 3, 3)
    data = png(values, 2, [0, 0], chunk(b"eXIf", exif.tobytes()[6:]))
    assert np.array_equal(shown(data), np.rot90(spread(values), -1))


def test_every_deep_channel_counts_for_the_limit_of_a_size(monkeypatch):
    """81 million pixels of four channels, a PNG of 600 kB, took 6.6 GB of memory."""
    data = png(sixteen(4, 5, 4), 6, [0] * 4)
    monkeypatch.setattr("swift.llm.images.source.MAX_PIXELS", 80)
    open_image(ImageSource("a.png", data=data))
    monkeypatch.setattr("swift.llm.images.source.MAX_PIXELS", 79)
    for reader in (open_image, check_image, image_size):
        with pytest.raises(UserError, match="5 x 4 pixels of 4 deep channels, over 79 values"):
            reader(ImageSource("a.png", data=data))


def test_a_cut_png_is_refused():
    with pytest.raises(UserError, match="image film is truncated or damaged"):
        shown(png(sixteen(6, 5, 3), 2, [0] * 6)[:-40])


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("planes", [False, True])
@pytest.mark.parametrize("settings", [{}, {"compression": 8}, {"compression": 8, "predictor": 2}, {"tile": True}])
def test_sixteen_bit_rgb_tiff_keeps_all_bits(order, settings, planes):
    values = sixteen(5, 16, 3) if "tile" not in settings else sixteen(16, 16, 3)
    assert np.array_equal(shown(tiff(values, order, planes=planes, **settings), outliers=0.0), spread(values))


@pytest.mark.parametrize(("samples", "dtype"), [(2, np.uint16), (4, np.uint16), (2, np.float32), (4, np.uint32)])
def test_associated_alpha_stands_on_black_as_it_is(samples, dtype):
    values = np.zeros((1, 3, samples), dtype)
    values[0, :, :-1], values[0, :, -1] = np.array([[0], [100], [200]]), 7
    assert shown(tiff(values, extra=1))[0].tolist() == [[0] * 3, [128] * 3, [255] * 3]


def test_alpha_in_a_plane_of_its_own_darkens():
    values = np.full((1, 3, 2), 60_000, np.uint16)
    values[0, :, 1] = 0, 32_768, 65_535
    assert shown(tiff(values, extra=2, planes=True))[0].tolist() == [[0] * 3, [128] * 3, [255] * 3]


@pytest.mark.parametrize("planes", [False, True])
@pytest.mark.parametrize("model", [5, 6, 8])
def test_color_models_that_are_not_read_are_refused(model, planes):
    with pytest.raises(UserError, match=f"image film has 4 channels of 16 bits in color model {model}"):
        shown(with_tag(tiff(sixteen(6, 5, 4), planes=planes), 262, model))


@pytest.mark.parametrize("dtype", [np.float64, np.uint64])
def test_depths_that_are_not_read_are_refused(dtype):
    with pytest.raises(UserError, match="image film has 3 channels of 64 bits"):
        shown(tiff(np.zeros((2, 3, 3), dtype)))


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_one_channel_that_is_called_a_plane_is_read(dtype):
    values = sixteen(6, 5, 1).astype(dtype)
    assert np.array_equal(shown(tiff(values, planes=True), outliers=0.0), np.repeat(spread(values), 3, axis=2))


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.float32])
def test_white_at_zero_is_turned_around(dtype):
    values = np.array([[[0, 9], [100, 9], [200, 9]]], dtype)
    assert shown(with_tag(tiff(values, extra=0), 262, 0))[0].tolist() == [[255] * 3, [128] * 3, [0] * 3]


@pytest.mark.parametrize("dtype", [np.float32, np.uint16])
def test_a_predictor_that_is_not_read_is_refused(dtype):
    with pytest.raises(UserError, match="predictor 3 is not read"):
        shown(tiff(np.zeros((2, 3, 3), dtype), predictor=3))


def test_unassociated_alpha_of_a_tiff_darkens():
    values = np.full((1, 3, 2), 60_000, np.uint16)
    values[0, :, 1] = 0, 32_768, 65_535
    assert shown(tiff(values, extra=2))[0].tolist() == [[0] * 3, [128] * 3, [255] * 3]


def test_eight_bit_gray_with_associated_alpha_is_not_multiplied_again():
    values = np.array([[[0, 0], [100, 128], [255, 255]]], np.uint8)
    assert shown(tiff(values, extra=1))[0].tolist() == [[0] * 3, [100] * 3, [255] * 3]


def test_unsigned_32_bits_are_not_signed():
    """As signed numbers, 2^32 - 1 would be -1 and black."""
    values = np.array([[[0], [2**31 - 1], [2**32 - 1]]], np.uint32)
    assert shown(tiff(values))[0, :, 0].tolist() == [0, 127, 255]


@pytest.mark.parametrize("kind", ["tEXt", "zTXt", "iTXt", "compressed iTXt"])
def test_long_texts_of_a_png_are_passed_over(kind):
    info = PngImagePlugin.PngInfo()
    text = "film " * 400_000  # two million bytes; compressed, a few thousand
    if "iTXt" in kind:
        info.add_itxt("Comment", text, zip=kind.startswith("compressed"))
    else:
        info.add_text("Comment", text, zip=kind == "zTXt")
    stream = io.BytesIO()
    Image.fromarray(np.array([[0, 7, 255]], np.uint8)).save(stream, "PNG", pnginfo=info)
    assert shown(stream.getvalue())[0, :, 0].tolist() == [0, 7, 255]


def test_texts_behind_the_pixels_are_passed_over_too():
    stream = io.BytesIO()
    Image.fromarray(np.array([[0, 7, 255]], np.uint8)).save(stream, "PNG")
    end = chunk(b"IEND", b"")
    data = stream.getvalue().removesuffix(end) + chunk(b"tEXt", b"a\0" + b"x" * 70_000_000) + end
    assert shown(data)[0, :, 0].tolist() == [0, 7, 255]


# Windows


def film(marker: int = 5) -> np.ndarray:
    """2000 pixels from 1000 to 2000, the first ``marker`` of them burnt in at 65000."""
    values = np.repeat(np.array([1000, 1500, 2000, 1200], np.uint16), 500)
    values[:marker] = 65_000
    return values.reshape(40, 50)


def test_a_burnt_in_marker_does_not_darken_the_film():
    stream = io.BytesIO()
    Image.fromarray(film()).save(stream, "PNG")
    gray = shown(stream.getvalue())[..., 0].ravel()
    assert (gray[0], gray[20], gray[600], gray[1100]) == (255, 0, 128, 255)
    assert shown(stream.getvalue(), outliers=0.0)[..., 0].ravel()[1100] == round(1000 / 64_000 * 255)


def test_the_flag_chooses_between_percentiles_and_range():
    assert view_of(None, "range").outliers == 0.0
    assert view_of(None, "percentiles") == View()


@pytest.mark.parametrize("dtype", [np.uint16, np.float32, np.int32])
def test_the_window_is_that_of_sorted_pixels(dtype):
    for _ in range(20):
        values = RANDOM.integers(0, 300, (30, 40)).astype(dtype)
        ordered = np.sort(values.ravel()).astype(np.float64)
        cut = int(0.005 * ordered.size)
        low, high = ordered[cut], ordered[ordered.size - 1 - cut]
        expected = np.rint(np.clip((values.astype(np.float64) - low) / (high - low), 0, 1) * 255)
        assert np.array_equal(spread_range(values, outliers=0.005), expected)


def test_an_image_that_differs_in_few_pixels_only_is_shown_by_its_range():
    values = np.full((40, 50), 9, np.uint16)
    values[0, 0] = 10
    assert spread_range(values, outliers=0.005)[0, :2].tolist() == [255, 0]

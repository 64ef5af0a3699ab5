"""Pixels from untrusted files: each kind of file is read correctly, and bad files are refused by name."""

from __future__ import annotations

import base64
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from swift.llm.images.source import ImageSource, View, check_image, image_size, is_base64, open_image
from swift.utils.errors import UserError


def encode(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def source_of(data: bytes) -> ImageSource:
    return ImageSource("x", data=data)


def pixels_of(data: bytes) -> list:
    return np.asarray(open_image(source_of(data))).tolist()


def gray(*values: int) -> list:
    return [[[value] * 3 for value in values]]


def test_eight_bit_gray_is_unchanged():
    assert pixels_of(encode(Image.fromarray(np.array([[0, 7, 255]], np.uint8)))) == gray(0, 7, 255)


def test_sixteen_bit_is_windowed_by_its_range():
    # (2000 - 1000) * 255 / (3000 - 1000) = 127.5, rounded to even
    assert pixels_of(encode(Image.fromarray(np.array([[1000, 2000, 3000]], np.uint16)))) == gray(0, 128, 255)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("values", [(0, 9, 4095), (20_000, 20_001, 20_004), (0, 32_768, 65_535)])
def test_every_sixteen_bit_file_is_windowed_not_clipped(kind, values):
    low, high = values[0], values[-1]
    image = Image.fromarray(np.array([values], np.uint16))
    assert image.mode == "I;16"
    assert pixels_of(encode(image, kind)) == gray(*(round((value - low) / (high - low) * 255) for value in values))


def test_big_endian_sixteen_bits():
    """A TIFF in Motorola's byte order opens as I;16B."""
    entries = [  # tag, type (3 short, 4 long), value: width, height, bits, compression, photometric, place, rows, bytes
        *[(256, 4, 3), (257, 4, 1), (258, 3, 16), (259, 3, 1), (262, 3, 1), (273, 4, 122), (278, 4, 1), (279, 4, 6)]
    ]
    data = b"MM\0*" + struct.pack(">IH", 8, len(entries))
    for tag, kind, value in entries:
        data += struct.pack(">HHI", tag, kind, 1) + (
            struct.pack(">HH", value, 0) if kind == 3 else struct.pack(">I", value)
        )
    data = (data + b"\0" * 4).ljust(122, b"\0") + struct.pack(">3H", 1000, 2000, 3000)
    assert Image.open(io.BytesIO(data)).mode == "I;16B"
    assert pixels_of(data) == gray(0, 128, 255)


def test_the_table_of_levels_gives_what_every_pixel_alone_would():
    values = np.random.default_rng(0).integers(300, 4000, (40, 30)).astype(np.uint16)
    expected = np.rint((values.astype(float) - values.min()) / np.ptp(values) * 255)
    shown = open_image(ImageSource("x", data=encode(Image.fromarray(values)), view=View(outliers=0.0)))
    assert np.array_equal(np.asarray(shown)[..., 0], expected)


def test_thirty_two_bits_do_not_overflow():
    values = np.array([[-(2**31), 0, 2**31 - 1]], np.int32)
    assert pixels_of(encode(Image.fromarray(values), "TIFF")) == gray(0, 128, 255)


def test_float_pixels_that_are_not_numbers_are_black():
    values = np.array([[np.nan, -1.0, 1.0, np.inf]], np.float32)
    assert pixels_of(encode(Image.fromarray(values), "TIFF")) == gray(0, 0, 255, 0)


def test_a_constant_deep_image_is_black_not_a_division_by_zero():
    assert pixels_of(encode(Image.fromarray(np.full((1, 2), 900, np.uint16)))) == gray(0, 0)


@pytest.mark.parametrize(("photometric", "expected"), [(1, gray(0, 255)), (0, gray(255, 0))])
def test_deep_tiff_follows_its_photometric_tag(photometric, expected):
    image = Image.fromarray(np.array([[0, 60000]], np.uint16))
    assert pixels_of(encode(image, "TIFF", tiffinfo={262: photometric})) == expected


@pytest.mark.parametrize(("photometric", "expected"), [(1, gray(0, 200)), (0, gray(255, 55))])
def test_eight_bit_tiff_follows_its_photometric_tag(photometric, expected):
    data = encode(Image.fromarray(np.array([[0, 200]], np.uint8)), "TIFF")
    place = data.index(struct.pack("<HHI", 262, 3, 1)) + 8
    assert pixels_of(data[:place] + struct.pack("<H", photometric) + data[place + 2 :]) == expected


def test_bilevel_becomes_black_and_white():
    assert pixels_of(encode(Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1"))) == gray(0, 255)


def test_palette_is_looked_up():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putdata([1, 0])
    assert pixels_of(encode(image)) == [[[200, 100, 50], [10, 20, 30]]]


def test_transparent_pixels_are_black():
    # half-transparent 200 over black: 200 * 128 / 255 = 100.4
    image = Image.fromarray(np.array([[[200, 200, 200, 0], [200, 200, 200, 128], [200, 200, 200, 255]]], np.uint8))
    assert pixels_of(encode(image)) == gray(0, 100, 200)


def test_gray_with_alpha_is_laid_on_black():
    image = Image.fromarray(np.array([[[200, 255], [200, 0], [200, 128]]], np.uint8), "LA")
    for kind in ("PNG", "TIFF"):
        assert pixels_of(encode(image, kind)) == gray(200, 0, 100)


def test_a_transparent_palette_entry_is_black():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putdata([1, 0])
    assert pixels_of(encode(image, "PNG", transparency=1)) == [[[0, 0, 0], [10, 20, 30]]]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF"])
def test_every_format_is_read(kind):
    options = {"lossless": True} if kind == "WEBP" else {"quality": 100} if kind == "JPEG" else {}
    image = Image.fromarray(np.array([[0, 90, 255]] * 8, np.uint8).repeat(8, axis=1))
    data = encode(image, kind, **options)
    source = source_of(data)
    assert Image.open(io.BytesIO(data)).format == kind
    assert image_size(source) == (24, 8)
    check_image(source)
    assert np.abs(np.array(pixels_of(data))[4, [4, 12, 20], 0] - [0, 90, 255]).max() <= 2


def test_the_first_page_counts():
    pages = [Image.new("L", (2, 1), value) for value in (50, 200)]
    assert pixels_of(encode(pages[0], "TIFF", save_all=True, append_images=pages[1:])) == gray(50, 50)


def test_an_inverted_cmyk_jpeg_of_adobe_is_not_a_negative():
    """Adobe writes CMYK JPEGs inverted and marks them. A pixel without ink is stored as 255 and shown as white."""
    for ink, shown in ((0, 255), (255, 0)):
        data = encode(Image.new("CMYK", (8, 8), (0, 0, 0, ink)), "JPEG", quality=100)
        assert b"\xff\xee\x00\x0eAdobe" in data
        stored = Image.open(io.BytesIO(data))
        stored.tile = [(name, box, offset, ("CMYK", *rest[1:])) for name, box, offset, rest in stored.tile]
        assert stored.getpixel((4, 4)) == (255, 255, 255, 255 - ink)  # as it is in the file
        assert pixels_of(data)[4][4] == [shown] * 3


def test_cmyk_becomes_rgb():
    assert pixels_of(encode(Image.new("CMYK", (1, 1), (0, 0, 0, 255)), "TIFF")) == gray(0)


@pytest.mark.parametrize(("orientation", "expected"), [(1, gray(10, 250)), (3, gray(250, 10)), (2, gray(250, 10))])
def test_exif_orientation_is_applied(orientation, expected):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(np.array([[10, 250]], np.uint8))
    for kind in ("PNG", "TIFF"):
        assert pixels_of(encode(image, kind, exif=exif)) == expected


def test_a_turned_sixteen_bit_image_is_turned_and_windowed():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise: the first row becomes the last column
    image = Image.fromarray(np.array([[1000, 2000, 3000]], np.uint16))
    assert pixels_of(encode(image, "PNG", exif=exif)) == [[[0] * 3], [[128] * 3], [[255] * 3]]


@pytest.mark.parametrize(("orientation", "size"), [(1, (3, 2)), (3, (3, 2)), (5, (2, 3)), (6, (2, 3)), (8, (2, 3))])
def test_header_size_is_the_size_of_the_opened_image(orientation, size):
    exif = Image.Exif()
    exif[0x0112] = orientation
    for kind in ("PNG", "JPEG", "TIFF", "WEBP"):
        source = source_of(encode(Image.new("L", (3, 2)), kind, exif=exif))
        assert image_size(source) == open_image(source).size == size, kind


def huge_png() -> bytes:
    """A PNG of a few bytes whose header claims 100,000 x 100,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8))
WHOLE_PNG, WHOLE_JPEG = encode(NOISE), encode(NOISE, "JPEG")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is not a PNG"),
        (b"PatientID,Finding\n1,none\n", "is not a PNG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", "is not a PNG"),  # Pillow would run gs
        (WHOLE_PNG[:-200], "truncated or damaged"),
        (WHOLE_JPEG[:-200], "truncated or damaged"),
        (WHOLE_PNG[:500] + bytes([WHOLE_PNG[500] ^ 255]) + WHOLE_PNG[501:], "truncated or damaged"),
        (huge_png(), "pixels"),
    ],
    ids=["empty", "text", "eps", "short png", "short jpeg", "flipped byte", "bomb"],
)
def test_a_bad_image_is_refused_by_name_in_one_line(data, words):
    for reader in (check_image, open_image):
        with pytest.raises(UserError, match=words) as caught:
            reader(ImageSource("studies/7.png", data=data))
        assert "studies/7.png" in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [WHOLE_PNG, WHOLE_JPEG, encode(NOISE.convert("CMYK"), "JPEG")])
@pytest.mark.parametrize("decode", [True, False])
def test_a_whole_image_passes_the_check(data, decode):
    check_image(source_of(data), decode)


def test_checksums_find_a_damaged_png_without_decoding():
    with pytest.raises(UserError, match="damaged"):
        check_image(source_of(WHOLE_PNG[:500] + b"\0\0\0\0" + WHOLE_PNG[504:]), decode=False)


@pytest.mark.parametrize("name", ["gone.png", "."])
def test_a_missing_file_and_a_folder_are_called_missing(tmp_path, name):
    with pytest.raises(UserError, match=r"missing.*--image_root"):
        open_image(ImageSource.from_path(tmp_path / name))


def test_base64_bare_wrapped_and_as_data_uri_give_the_same_image():
    bare = base64.b64encode(WHOLE_PNG).decode()
    wrapped = "\n".join(bare[i : i + 76] for i in range(0, len(bare), 76))
    keys = {ImageSource.from_base64(text).key for text in (bare, wrapped, "data:image/png;base64," + bare)}
    assert len(keys) == 1
    assert open_image(ImageSource.from_base64(bare)).size == (64, 64)


@pytest.mark.parametrize("text", ["data:image/png;base64,!!!!", "iVBORw0KGgo" + "A" * 60 + "=A", "abc"])
def test_text_that_is_not_base64_is_refused(text):
    with pytest.raises(UserError, match="not valid base64"):
        ImageSource.from_base64(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("p10/p1/s5/a.png", False),
        ("/9j/scans/with/a/long/path/" + "folder/" * 20 + "a.jpg", False),  # "/9j/" also begins every JPEG in base64
        ("iVBORw0KGgo.png", False),
        (base64.b64encode(WHOLE_PNG).decode(), True),
        (base64.b64encode(WHOLE_JPEG).decode(), True),
        ("data:image/png;base64,AAAA", True),
        ("x" * 5000, True),
    ],
)
def test_a_path_and_an_embedded_image_are_told_apart(text, expected):
    assert is_base64(text) is expected

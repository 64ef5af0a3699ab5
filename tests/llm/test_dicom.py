"""DICOM files: the view that a viewer opens with, by hand and by pydicom's own window. Bad files are refused."""

from __future__ import annotations

import base64
import io
import logging
import sys

import numpy as np
import pytest
from PIL import Image

from swift.llm.images import dicom
from swift.llm.images.source import ImageSource, check_image, image_size, is_base64, open_image
from swift.utils.errors import UserError

pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed; it is optional")
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset  # noqa: E402
from pydicom.encaps import encapsulate  # noqa: E402
from pydicom.uid import (  # noqa: E402
    DeflatedExplicitVRLittleEndian,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)


def dataset(values, photometric: str = "MONOCHROME2", stored: int | None = None, **fields) -> FileDataset:
    """An image whose pixels are ``values`` [rows, columns] or [rows, columns, 3], with ``stored`` bits of each used."""
    values = np.asarray(values)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["test"])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made = FileDataset("x.dcm", {}, file_meta=meta, preamble=b"\0" * 128)
    made.SOPClassUID, made.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    made.Modality = "DX"
    made.Rows, made.Columns = values.shape[:2]
    made.SamplesPerPixel = values.shape[2] if values.ndim == 3 else 1
    if made.SamplesPerPixel > 1:
        made.PlanarConfiguration = 0
    made.PhotometricInterpretation = photometric
    made.BitsAllocated = values.itemsize * 8
    made.BitsStored = stored or made.BitsAllocated
    made.HighBit = made.BitsStored - 1
    made.PixelRepresentation = int(values.dtype.kind == "i")
    made.PixelData = values.tobytes()
    made["PixelData"].VR = "OB" if values.itemsize == 1 else "OW"
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def encode(made: FileDataset, syntax: str = ExplicitVRLittleEndian) -> bytes:
    made.file_meta.TransferSyntaxUID = syntax
    stream = io.BytesIO()
    pydicom.dcmwrite(
        stream, made, enforce_file_format=True, implicit_vr=False, little_endian=syntax != ExplicitVRBigEndian
    )
    return stream.getvalue()


def source_of(data: bytes) -> ImageSource:
    return ImageSource("studies/7.dcm", data=data)


def gray_of(made: FileDataset, syntax: str = ExplicitVRLittleEndian) -> list:
    """The shown gray values, after a check that all three channels agree."""
    pixels = np.asarray(open_image(source_of(encode(made, syntax))))
    assert (pixels == pixels[..., :1]).all()
    return pixels[..., 0].tolist()


def u16(*values: int) -> np.ndarray:
    return np.array([values], np.uint16)


def lut(first: int, bits: int, *entries: int) -> list[Dataset]:
    item = Dataset()
    item.LUTDescriptor = [len(entries), first, bits]
    item.add_new("LUTData", "US", list(entries))
    return [item]


@pytest.mark.parametrize(
    ("values", "fields", "shown"),
    [
        # no window: 1000..3000 is spread over 0..255, (2000 - 1000) / 2000 * 255 = 127.5, rounded to even
        (u16(1000, 2000, 3000), {}, [0, 128, 255]),
        (u16(1000, 2000, 3000), {"photometric": "MONOCHROME1"}, [255, 128, 0]),
        (np.array([[0, 64, 255]], np.uint8), {"WindowCenter": 128, "WindowWidth": 256}, [0, 64, 255]),
        # LINEAR, c = 100, w = 101: (x - 99.5) / 100 + 0.5, so 49.5 is black, 149.5 white; 75 is 0.255 = 65.0
        (
            u16(0, 75, 100, 500),
            {"WindowCenter": 100, "WindowWidth": 101},
            [0, 65, 129, 255],
        ),  # 100: 0.505 * 255 = 128.8
        (u16(0, 75, 100, 500), {"WindowCenter": [100, 9], "WindowWidth": [101, 9]}, [0, 65, 129, 255]),
        (u16(0, 75, 500), {"WindowCenter": 100, "WindowWidth": 101, "photometric": "MONOCHROME1"}, [255, 190, 0]),
        # LINEAR with width 1 is a step after c - 0.5
        (u16(99, 100), {"WindowCenter": 100, "WindowWidth": 1}, [0, 255]),
        # LINEAR_EXACT: (x - 100) / 100 + 0.5; 75 is 0.25 = 63.75
        (u16(50, 75, 150), {"WindowCenter": 100, "WindowWidth": 100, "VOILUTFunction": "LINEAR_EXACT"}, [0, 64, 255]),
        # SIGMOID: 1 / (1 + exp(-4 (x - 100) / 100)); at 125 1 / (1 + 1/e) = 0.731 = 186.4
        (u16(100, 125), {"WindowCenter": 100, "WindowWidth": 100, "VOILUTFunction": "SIGMOID"}, [128, 186]),
        # a window is in rescaled units: 10, 20 become 2 * x - 20 = 0, 20; LINEAR_EXACT (x - 20) / 40 + 0.5
        (
            u16(10, 20),
            {
                "RescaleSlope": 2,
                "RescaleIntercept": -20,
                "WindowCenter": 20,
                "WindowWidth": 40,
                "VOILUTFunction": "LINEAR_EXACT",
            },
            [0, 128],
        ),
        (u16(10, 20), {"RescaleSlope": -1, "RescaleIntercept": 0}, [255, 0]),
        # 5 and below are 0, 6 is 1023 of 4095 = 63.7, 7 and above 4095
        (u16(0, 5, 6, 7, 900), {"VOILUTSequence": lut(5, 12, 0, 1023, 4095)}, [0, 0, 64, 255, 255]),
        (
            u16(5, 6, 7),
            {"VOILUTSequence": lut(5, 12, 0, 1023, 4095), "WindowCenter": 6, "WindowWidth": 1},
            [0, 64, 255],
        ),
        # the modality LUT turns 0, 1, 2 into 100, 300, 200: found range 100..300
        (u16(0, 1, 2), {"ModalityLUTSequence": lut(0, 16, 100, 300, 200)}, [0, 255, 128]),
        (np.array([[-1000, 0, 1000]], np.int16), {}, [0, 128, 255]),
        (np.array([[-32768, 32767]], np.int16), {}, [0, 255]),
        # a 12-bit image whose upper four bits hold an overlay: 0xF000 and 0x0FFF are 0 and 4095
        (u16(0xF000, 0x0FFF), {"stored": 12}, [0, 255]),
        # padding is black and outside the range, in both polarities
        (u16(0, 1000, 3000), {"PixelPaddingValue": 0}, [0, 0, 255]),
        (u16(0, 1000, 3000), {"PixelPaddingValue": 0, "photometric": "MONOCHROME1"}, [0, 255, 0]),
        (u16(0, 7, 1000, 3000), {"PixelPaddingValue": 0, "PixelPaddingRangeLimit": 9}, [0, 0, 0, 255]),
        (u16(65535, 75, 100), {"PixelPaddingValue": 65535, "WindowCenter": 100, "WindowWidth": 101}, [0, 65, 129]),
        (u16(900, 900), {}, [0, 0]),
        # half a window says nothing
        (u16(0, 10), {"WindowCenter": 5}, [0, 255]),
        (u16(0, 10), {"WindowCenter": 5, "WindowWidth": ""}, [0, 255]),
    ],
)
def test_gray_by_hand(values, fields, shown):
    assert gray_of(dataset(values, **fields)) == [shown]


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("kind", [np.uint16, np.int16])
def test_windows_are_those_of_pydicom(function, kind):
    draw = np.random.default_rng(0)
    for _ in range(10):
        values = draw.integers(-2000 if kind is np.int16 else 0, 4000, (16, 12)).astype(kind)
        center, width = float(draw.integers(-500, 3000)), float(draw.integers(2, 3000))
        made = dataset(values, WindowCenter=center, WindowWidth=width, VOILUTFunction=function)
        # pydicom maps to the whole range of the stored type
        limits = np.iinfo(kind)
        expected = (pydicom.pixels.apply_windowing(values, made) - limits.min) / (limits.max - limits.min) * 255
        assert np.abs(np.array(gray_of(made)) - expected).max() <= 0.5 + 1e-6


def test_byte_order_and_run_length_coding_do_not_change_the_picture():
    values = np.random.default_rng(0).integers(0, 4096, (9, 7)).astype(np.uint16)
    expected = gray_of(dataset(values))
    big = dataset(values)
    big.PixelData = values.astype(">u2").tobytes()
    assert gray_of(big, ExplicitVRBigEndian) == expected
    packed = dataset(values)
    packed.compress(RLELossless)
    assert gray_of(packed, RLELossless) == expected


COLORS = np.array([[[255, 0, 0], [0, 128, 255]]], np.uint8)


def pixels_of(made: FileDataset, syntax: str = ExplicitVRLittleEndian) -> list:
    return np.asarray(open_image(source_of(encode(made, syntax)))).tolist()


def test_rgb_is_unchanged_at_eight_bits_and_scaled_at_sixteen():
    assert pixels_of(dataset(COLORS, "RGB")) == COLORS.tolist()
    assert pixels_of(dataset(COLORS.astype(np.uint16) * 257, "RGB")) == COLORS.tolist()  # 255 * 257 = 65535


def test_luminance_and_chrominance_become_rgb():
    # full-range BT.601: 76, 85, 255 is red: R = 76 + 1.402 * 127 = 254, G = 76 + 0.344 * 43 - 0.714 * 127 = 0, B = 0
    (pixel,) = pixels_of(dataset(np.array([[[76, 85, 255]]], np.uint8), "YBR_FULL"))[0]
    assert np.abs(np.array(pixel) - [254, 0, 0]).max() <= 1


def test_palette_is_looked_up():
    made = dataset(np.array([[1, 0]], np.uint8), "PALETTE COLOR")
    for name, entries in {"Red": (0, 65535), "Green": (32896, 0), "Blue": (0, 0)}.items():  # 32896 = 128 * 257
        setattr(made, f"{name}PaletteColorLookupTableDescriptor", [2, 0, 16])
        setattr(made, f"{name}PaletteColorLookupTableData", np.array(entries, "<u2").tobytes())
    assert pixels_of(made) == [[[255, 0, 0], [0, 128, 0]]]


def jpeg_of(values: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "JPEG", quality=95)
    return stream.getvalue()


def test_a_jpeg_inside_is_decoded():
    values = np.tile(np.arange(0, 256, 8, dtype=np.uint8), (32, 1))
    made = dataset(values, WindowCenter=128, WindowWidth=256)
    made.PixelData = encapsulate([jpeg_of(values)])
    made["PixelData"].is_undefined_length = True
    assert np.abs(np.array(gray_of(made, JPEGBaseline8Bit)) - values).max() <= 3


def test_size_and_check_read_it_too():
    whole = source_of(encode(dataset(np.zeros((3, 5), np.uint16))))
    assert image_size(whole) == open_image(whole).size == (5, 3)
    check_image(whole)
    check_image(whole, decode=False)


def test_the_content_decides_not_the_name(tmp_path):
    (tmp_path / "a.png").write_bytes(encode(dataset(u16(0, 9))))
    assert np.asarray(open_image(ImageSource.from_path(tmp_path / "a.png")))[0, :, 0].tolist() == [0, 255]


@pytest.mark.parametrize("preamble", [b"\0" * 128, b"II*\0" + bytes(range(124))])
def test_base64_is_recognized_at_any_length(preamble):
    made = dataset(u16(0, 9))
    made.preamble = preamble
    bare = base64.b64encode(encode(made)).decode()
    assert len(bare) < 4096  # any longer text would be taken for base64
    for text in (bare, "\n".join(bare[i : i + 76] for i in range(0, len(bare), 76))):
        assert is_base64(text)
        assert open_image(ImageSource.from_base64(text)).size == (2, 1)
    assert not is_base64("A" * 171 + "/scans/of/a/patient")


def without(made: FileDataset, *names: str) -> FileDataset:
    for name in names:
        delattr(made, name)
    return made


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (encode(dataset(np.zeros((2, 4, 4), np.uint8)[0], NumberOfFrames=2)), "of 2 frames; save the frame"),
        (encode(without(dataset(u16(1)), "PixelData", "Rows", "Columns")), r"without an image \(DX\)"),
        (encode(dataset(u16(1), "HSV")), "of kind HSV, not one of MONOCHROME1"),
        (encode(dataset(np.zeros((2, 2), np.uint32))), "32 bits allocated"),
        (encode(dataset(u16(*range(90))))[:-100], "truncated or damaged"),
        (b"\0" * 128 + b"DICM" + b"\1\2\3" * 9, "truncated or damaged|without an image"),
        (encode(dataset(u16(1), Rows=30_000, Columns=30_000)), "30000 x 30000 pixels, over"),
    ],
    ids=["frames", "report", "kind", "deep", "short", "noise", "bomb"],
)
def test_a_file_that_cannot_be_shown_is_refused_in_one_line(data, words):
    for reader in (open_image, check_image):
        with pytest.raises(UserError, match=words) as caught:
            reader(source_of(data))
        assert str(caught.value).startswith("image studies/7.dcm ")
        assert "\n" not in str(caught.value)


def test_a_deflated_file_is_inflated_up_to_a_limit(monkeypatch):
    """Pydicom inflates such a file whole: 400 kB took 0.8 GB of memory."""
    made = dataset(u16(0, 9))
    assert open_image(source_of(encode(made, DeflatedExplicitVRLittleEndian))).size == (2, 1)
    monkeypatch.setattr(dicom, "LARGEST_INFLATED", 3_000_000)
    made.add_new((0x0009, 0x1001), "OB", bytes(5_000_000))
    for reader in (open_image, check_image, image_size):
        with pytest.raises(UserError, match="is a deflated DICOM file of over 3 MB"):
            reader(source_of(encode(made, DeflatedExplicitVRLittleEndian)))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"WindowCenter": 1, "WindowWidth": 0}, "a window 0 wide shows nothing"),
        ({"WindowCenter": 1, "WindowWidth": 5, "VOILUTFunction": "ODD"}, "function ODD is unknown"),
        ({"WindowCenter": [5, 6], "WindowWidth": [-3, 9]}, "a window -3 wide shows nothing"),
    ],
)
def test_a_window_that_cannot_be_used_gives_way_to_the_range_with_one_warning(caplog, fields, reason):
    logging.getLogger("chex").addHandler(caplog.handler)
    source = ImageSource(f"films/{reason}.dcm", data=encode(dataset(u16(10, 20, 30), **fields)))
    for _ in range(2):
        assert np.asarray(open_image(source))[0, :, 0].tolist() == [0, 128, 255]
    logging.getLogger("chex").removeHandler(caplog.handler)
    (line,) = caplog.messages
    assert source.name in line
    assert reason in line


@pytest.mark.parametrize("preamble", [True, False])
@pytest.mark.parametrize("implicit", [True, False])
def test_files_without_transfer_syntax_or_preamble_are_read_as_pydicom_infers(implicit, preamble):
    made = dataset(u16(10, 20, 30))
    stream = io.BytesIO(b"\0" * 128 + b"DICM" if preamble else b"")
    stream.seek(0, io.SEEK_END)
    body = io.BytesIO()
    pydicom.filewriter.write_dataset(_writer(body, implicit), made)
    stream.write(body.getvalue())
    source = source_of(stream.getvalue())
    assert np.asarray(open_image(source))[0, :, 0].tolist() == [0, 128, 255]
    assert image_size(source) == (3, 1)
    check_image(source)


def _writer(stream: io.BytesIO, implicit: bool) -> pydicom.filebase.DicomFileLike:
    writer = pydicom.filebase.DicomFileLike(stream)
    writer.is_implicit_VR, writer.is_little_endian = implicit, True
    return writer


@pytest.mark.parametrize("head", [b"\2\0\0\0", b"II*\0\x08\0\0\0", b"BM6\0\0\0\0\0", b"\x08\0", b"", b"\x08" * 200])
def test_other_content_is_not_taken_for_dicom(head):
    with pytest.raises(UserError, match=r"is not a PNG|truncated or damaged"):
        open_image(source_of(head))


def test_a_marker_does_not_set_the_range_of_a_file_without_window():
    values = np.full((40, 50), 1000, np.uint16)
    values[:, 25:] = 2000
    values[0, :5] = 65_000  # 5 of 2000 pixels
    shown = np.asarray(open_image(source_of(encode(dataset(values)))))[..., 0]
    assert (shown[5, 0], shown[5, 40], shown[0, 0]) == (0, 255, 255)


def test_a_compression_that_nothing_installed_decodes_is_refused_before_decoding():
    made = dataset(u16(1, 2))
    made.PixelData = encapsulate([b"\xff\xd8\xff\xf7"])
    made["PixelData"].is_undefined_length = True
    data = encode(made, JPEGLSLossless)
    if pydicom.pixels.get_decoder(JPEGLSLossless).is_available:
        pytest.skip("a decoder for JPEG-LS is installed")
    with pytest.raises(UserError, match=r"compressed as JPEG-LS.*pip install pylibjpeg"):
        check_image(source_of(data), decode=False)


def test_without_pydicom_the_remedy_is_named(monkeypatch):
    data = encode(dataset(u16(1, 2)))
    monkeypatch.setitem(sys.modules, "pydicom", None)  # as if the package were not installed
    for reader in (open_image, image_size, check_image):
        with pytest.raises(UserError, match=r"image studies/7\.dcm is a DICOM file.*pip install pydicom$"):
            reader(source_of(data))

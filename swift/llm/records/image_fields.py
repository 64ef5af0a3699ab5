"""Image fields of records: their customary names, the forms of their values, and fields that look like one.

Case and separators in a name do not matter: ``image_path``, ``imagePath`` and ``Image Path`` are one name. The first
field in the order of `IMAGE_FIELDS` that is not empty holds the images. An empty field (null, an empty list or text)
counts as absent, since exports from tables fill every column.
"""

from __future__ import annotations

import ast
import base64
import binascii
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import unquote

from swift.llm.images.source import is_base64, is_encoded_image
from swift.llm.records.values import describe_kind, text_of_answer
from swift.utils.errors import UserError

EXTENSIONS = (".png", ".jpg", ".jpeg", ".dcm", ".dicom", ".tif", ".tiff", ".webp", ".bmp", ".gif")
ID_FIELDS = ("imageids", "imageid", "imgids", "imgid", "dicomids", "dicomid")  # a file's name without its extension
# The customary names, in order of preference. Paths come before identifiers, which may be numbers without a meaning
# on disk. "imagepaths" comes last: in a result file it says what was shown, which under a control is another image.
IMAGE_FIELDS = (
    "images", "image", "imagepath", "imagebase64", "imageb64", "imagebytes", "imagedata", "imagefiles",
    "imagefile", "imagefilenames", "imagefilename", "imagenames", "imagename", "imageurls", "imageurl", "imgs",
    "img", "imgpaths", "imgpath", "imgfiles", "imgfile", "imgnames", "imgname", "imgurls", "imgurl", "pictures",
    "picture", "photos", "photo", "figures", "figure", "figurepath", "radiographs", "radiograph", "xrays", "xray",
    "xraypath", "cxrs", "cxr", "cxrpath", "dicompaths", "dicompath", "dicoms", "dicom", "filepaths", "filepath",
    "filenames", "filename", "files", "file", "paths", "path", *ID_FIELDS, "imagepaths",
)  # fmt: skip
# Names that hold an image only if their value looks like the name of an image file.
GENERIC_FIELDS = frozenset(IMAGE_FIELDS[IMAGE_FIELDS.index("filepaths") : IMAGE_FIELDS.index("path") + 1])
OTHER_MEDIA = frozenset({"video", "videos", "audio", "audios"})
# One image per field: image1, image_2, img_path_1 ... They are read in the order of their numbers.
_NUMBERED = re.compile(r"(?:image|img|xray|cxr)(?:path|file|name|id)?(\d+)")
# Fields of texts and identifiers, which are never searched for images.
_TEXTS = frozenset(
    {
        "messages", "conversations", "conversation", "history", "system", "question", "query", "problem", "prompt",
        "instruction", "input", "response", "output", "completion", "solution", "explanation", "answer", "answers",
        "generatedtext", "id", "idx", "qid", "uid", "questionid", "subjectid", "studyid",
    }
)  # fmt: skip
# Words that make a field's name look like an image's, in records that have none.
_TELLING = ("image", "img", "picture", "photo", "figure", "radiograph", "xray", "cxr", "dicom", "scan", "film", "pixel")
_ENDINGS = tuple(ending for extension in EXTENSIONS for ending in (extension, extension.upper()))
_LONGEST_NAME = 1024


class ImageValue(NamedTuple):
    """One image as its record states it: the ``text`` of a path or of base64, or bytes. ``place`` is for messages."""

    place: str
    text: str = ""
    data: bytes | None = None
    is_id: bool = False  # a name without its extension

    @property
    def written(self) -> str:
        """The text by which a training record names the image."""
        if self.data is not None:
            return "data:image;base64," + base64.b64encode(self.data).decode()
        return f"{self.text}.png" if self.is_id and not self.text.endswith(_ENDINGS) else self.text

    @property
    def stem(self) -> str:
        """The name of the file without folder and extension; empty for an image that is not a file."""
        return "" if self.data is not None or is_base64(self.text) else _stem(self.text)


class FieldPlan(NamedTuple):
    """The fields of records with the same names of fields."""

    images: tuple[tuple[str, bool, bool], ...]  # (field, holds identifiers, is generic), in order of preference
    numbered: tuple[tuple[str, bool], ...]  # (field, holds identifiers) of image1, image2 ..., in order
    media: tuple[str, ...]
    others: tuple[str, ...]  # fields that are searched for images


@lru_cache(maxsize=4096)
def canonical_name(field: str) -> str:
    """A field's name in lower case without blanks, underscores and hyphens."""
    return field.lower().replace("_", "").replace("-", "").replace(" ", "")


@lru_cache(maxsize=4096)
def plan_fields(fields: tuple[str, ...], chosen: tuple[str, ...] = ()) -> FieldPlan:
    """Sort the fields of a record. With ``chosen`` fields, these alone hold images, and no other is searched."""
    by_name: dict[str, list[str]] = {}
    for field in fields:
        by_name.setdefault(canonical_name(field), []).append(field)
    if chosen:
        return FieldPlan(tuple((f, canonical_name(f) in ID_FIELDS, False) for f in chosen if f in fields), (), (), ())
    images = tuple(
        (field, name in ID_FIELDS, name in GENERIC_FIELDS) for name in IMAGE_FIELDS for field in by_name.get(name, ())
    )
    numbers = {field: match[1] for field in fields if (match := _NUMBERED.fullmatch(canonical_name(field)))}
    numbered = tuple((field, "id" in canonical_name(field)) for field in sorted(numbers, key=lambda f: int(numbers[f])))
    media = tuple(field for field in fields if canonical_name(field) in OTHER_MEDIA)
    known = {field for field, *_ in images} | set(media)
    others = tuple(f for f in fields if f not in known and canonical_name(f) not in _TEXTS)
    return FieldPlan(images, numbered, media, others)


def image_choices(item: Mapping[str, Any], chosen: tuple[str, ...] = ()) -> Iterator[list[ImageValue]]:
    """The images of each field that has some, the preferred field first. With ``chosen`` fields, the images of all of
    them in one list. Raises UserError for a value that is not an image."""
    plan = plan_fields(tuple(item), chosen)
    if chosen:
        if images := [value for field, is_id, _ in plan.images for value in read_images(item[field], field, is_id)]:
            yield images
        return
    filled = [
        (field, is_id)
        for field, is_id, generic in plan.images
        if not is_empty(item[field]) and not (generic and not looks_like_image(item[field]))
    ]
    local = [(field, is_id) for field, is_id in filled if not _is_on_the_web(item[field])]
    for field, is_id in local or filled:
        yield list(read_images(item[field], field, is_id))
    if numbered := [value for field, is_id in plan.numbered for value in read_images(item[field], field, is_id)]:
        yield numbered


def unread_fields(item: Mapping[str, Any], images: Sequence[ImageValue], chosen: tuple[str, ...] = ()) -> list[str]:
    """Fields that hold something like an image other than ``images``. A field that names one of them in another way,
    with the same name of the file, is not among them. Videos and sound count too."""
    plan = plan_fields(tuple(item), chosen)
    unread = [field for field in plan.media if not is_empty(item[field])]
    suspects = [f for f in plan.others if looks_like_image(item[f])]
    if not chosen and len(plan.images) > 1:
        suspects += [f for f, *_ in plan.images if looks_like_image(item[f])]
    if suspects:
        read, stems = {value.place.split("'")[1] for value in images}, {value.stem for value in images}
        unread += [
            f for f in suspects
            if f not in read and not (images and _is_on_the_web(item[f])) and not _names_of(item[f]) <= stems
        ]  # fmt: skip
    return unread


def telling_fields(item: Mapping[str, Any]) -> list[str]:
    """Fields of a record without an image that may hold one, by their name or their value."""
    return [
        field
        for field, value in item.items()
        if canonical_name(field) not in _TEXTS
        and not is_empty(value)
        and not isinstance(value, bool)
        and (looks_like_image(value) or any(word in canonical_name(field) for word in _TELLING))
    ]


def read_images(value: Any, field: str, is_id: bool = False) -> Iterator[ImageValue]:
    """The images in a field's value: a text, an object with a path or bytes, or a list of these. A list may also be
    written as text, as in a table. Raises UserError for anything else."""
    if is_empty(value):
        return
    if isinstance(value, str) and value.startswith("[") and value.rstrip().endswith("]"):
        value = _as_list(value)
    if isinstance(value, list):
        for position, entry in enumerate(value):
            yield _read_image(entry, f"field '{field}'[{position}]", is_id)
    else:
        yield _read_image(value, f"field '{field}'", is_id)


def looks_like_image(value: Any) -> bool:
    """True for the name of an image file, an image in base64, an object that holds either, or a list of these."""
    if isinstance(value, str):
        if value.endswith(_ENDINGS):
            return len(value) <= _LONGEST_NAME and "\n" not in value
        if value.startswith("[") and len(value) <= _LONGEST_NAME:
            return (parsed := _as_list(value)) is not value and looks_like_image(parsed)
        return len(value) > 64 and is_encoded_image(value)
    if isinstance(value, list):
        return bool(value) and looks_like_image(value[0])
    if isinstance(value, dict):
        return value.get("bytes") is not None or any(
            isinstance(value.get(key), str) and looks_like_image(value[key]) for key in ("path", "url", "image")
        )
    return False


def is_empty(value: Any) -> bool:
    """True for null, an empty text, list or object, and an object or list of nulls alone, as in exports of tables."""
    if isinstance(value, dict):
        return all(entry is None for entry in value.values())
    return value is None or value == "" or value == []


def _read_image(value: Any, place: str, is_id: bool) -> ImageValue:
    if isinstance(value, dict):
        return _read_object(value, place, is_id)
    if is_id and isinstance(value, int | float) and not isinstance(value, bool):
        return ImageValue(place, text_of_answer(value), is_id=True)
    if not isinstance(value, str) or not value:
        raise UserError(f"{place} must be a path or base64 text, it is {describe_kind(value)}")
    if "://" in value[:16]:
        return ImageValue(place, _local_path(value, place))
    return ImageValue(place, value, is_id=is_id)


def _read_object(value: Mapping[str, Any], place: str, is_id: bool) -> ImageValue:
    """The image of an object: ``bytes`` before ``path``, as in Arrow, or the names that chat formats use."""
    data = value.get("bytes")
    if isinstance(data, list):
        try:
            return ImageValue(place, data=bytes(data))
        except (TypeError, ValueError) as error:
            raise UserError(f"{place}: 'bytes' must be numbers from 0 to 255, or base64 text") from error
    if isinstance(data, str) and data:
        try:
            return ImageValue(place, data=base64.b64decode(data.partition("base64,")[2] or data, validate=True))
        except (binascii.Error, ValueError) as error:
            raise UserError(f"{place}: 'bytes' is not base64 ({error}); encode the whole file again") from error
    for key in ("path", "url", "image", "image_url", "data", "file_name", "filename"):
        if not is_empty(value.get(key)):
            return _read_image(value[key], place, is_id)
    raise UserError(f"{place} must be a path or base64 text, it is an object without 'path' or 'bytes'")


def _local_path(text: str, place: str) -> str:
    if text.startswith("file://"):
        return unquote(text.removeprefix("file://"))
    raise UserError(f"{place} is the web address {text:.80}; download the image and name its file")


def _as_list(text: str) -> Any:
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
    return value if isinstance(value, list) else text


def _is_on_the_web(value: Any) -> bool:
    """True for a web address, or a list that begins with one."""
    if isinstance(value, list):
        return bool(value) and _is_on_the_web(value[0])
    return isinstance(value, str) and value.startswith(("http://", "https://"))


def _names_of(value: Any) -> set[str]:
    """Stems of the files that a field names; {""} for an image that is not a file."""
    try:
        return {image.stem for image in read_images(value, "")}
    except UserError:
        return {""}


def _stem(text: str) -> str:
    name = PurePosixPath(text.replace("\\", "/")).name
    return name[: -len(ending)] if (ending := next((e for e in _ENDINGS if name.endswith(e)), "")) else name

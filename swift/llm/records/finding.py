"""Image files of records: found in the image folder by path, by name with any extension, and in MIMIC's own tree."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from swift.llm.images.source import ImageSource, is_base64
from swift.llm.records.image_fields import EXTENSIONS, ImageValue
from swift.utils.errors import UserError
from utils.mimic import study_key
from utils.questions import patient_of

_ENDINGS = tuple(ending for extension in EXTENSIONS for ending in (extension, extension.upper()))
_MIMIC_PATH = re.compile(r"p\d\d/p(\d{8})/s(\d{8})/")
_MIMIC_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{8}){4}")


class ImageFinder:
    """Finds the images of records in ``root``, the real path of the image folder.

    A path may be relative to the root, to the folder that holds it, or to the working folder. The file must be inside
    the root. With ``allow_links``, links inside the root may lead out of it.
    """

    def __init__(self, root: Path | None, allow_links: bool = False) -> None:
        self.root, self.allow_links = root, allow_links
        self._bases = () if root is None else tuple(dict.fromkeys(map(str, (root, root.parent, Path.cwd()))))
        self._within = None if root is None else str(root).rstrip(os.sep) + os.sep
        self._folders: dict[str, str] = {}  # real path by path
        self._found: dict[tuple[str, bool], Path] = {}

    def find(self, value: ImageValue, item: Mapping[str, Any]) -> tuple[ImageSource, bool]:
        """The image, and whether its file exists. Raises UserError for a path outside the root or broken base64."""
        try:
            if value.data is not None:
                return ImageSource(f"an image of {len(value.data)} bytes", data=value.data, place=value.place), True
            if is_base64(value.text):
                source = ImageSource.from_base64(value.text)
                return ImageSource(source.name, data=source.data, place=value.place), True
            path, exists = self._path_of(value, item)
            return ImageSource(str(path), path=path, place=value.place), exists
        except (UserError, OSError, ValueError) as error:  # a path may hold a zero byte, or a loop of links
            raise UserError(f"{value.place}: {error}") from error

    def _path_of(self, value: ImageValue, item: Mapping[str, Any]) -> tuple[Path, bool]:
        known = self._found.get((value.text, value.is_id))
        if known is not None:
            return known, True
        if self.root is None:
            raise UserError("no folder named images is beside or above the dataset file; pass --image_root")
        inside: list[str] = []  # places of the text as it is, since another spelling says nothing about a missing file
        for number, text in enumerate(self._spellings(value)):
            for base in self._bases:
                place = self._look(os.path.normpath(os.path.join(base, text)), inside if number == 0 else [])
                if place is not None:
                    self._found[value.text, value.is_id] = path = Path(place)
                    return path, True
        for text in _mimic_places(value.text, item, self._bases[:1]):
            if (place := self._look(text, [])) is not None:
                return Path(place), True
        if not inside:
            raise self._outside(value.text)
        return Path(inside[0]), False

    def _spellings(self, value: ImageValue) -> Iterator[str]:
        """The text as it is and, for a file that is not there, with other extensions and slashes."""
        text, stem = value.text, _without_ending(value.text)
        if value.is_id and stem == text:
            yield f"{text}.png"
        yield text
        if "\\" in text or text != text.strip():
            text = text.strip().replace("\\", "/")
            stem = _without_ending(text)
            yield text
        yield from (stem + ending for ending in _ENDINGS)

    def _look(self, place: str, inside: list[str]) -> str | None:
        """The real path of ``place`` if it is a file that may be read. A path within the root is added to ``inside``,
        whether the file exists or not."""
        folder, name = os.path.split(place)
        if folder not in self._folders:
            self._folders[folder] = os.path.realpath(folder)
        real = os.path.join(self._folders[folder], name)
        try:
            mode = os.lstat(real).st_mode
        except (FileNotFoundError, NotADirectoryError):
            mode = 0
        if stat.S_ISLNK(mode):
            linked = os.path.realpath(real)
            allowed = linked.startswith(self._within) or (self.allow_links and self._named_within(place, real))
            if allowed:
                inside.append(real if self.allow_links else linked)
            return linked if allowed and os.path.isfile(linked) else None
        allowed = real.startswith(self._within) or (self.allow_links and self._named_within(place, real))
        if allowed:
            inside.append(real)
        return real if allowed and stat.S_ISREG(mode) else None

    def _named_within(self, place: str, real: str) -> bool:
        """True if a path lies in the root before its links are followed."""
        return place.startswith(self._within) or real.startswith(self._within)

    def _outside(self, text: str) -> UserError:
        places = (os.path.normpath(os.path.join(base, text)) for base in self._bases)
        linked = any(place.startswith(self._within) and os.path.lexists(place) for place in places)
        remedy = "it is a link: pass --allow_links true" if linked else "move the image or pass --image_root"
        return UserError(f"path {text!r} leads outside the image root {self.root}; {remedy}")


def _without_ending(text: str) -> str:
    ending = next((ending for ending in _ENDINGS if text.endswith(ending)), "")
    return text[: len(text) - len(ending)]


def _mimic_places(text: str, item: Mapping[str, Any], roots: tuple[str, ...]) -> Iterator[str]:
    """Places of an image of MIMIC-CXR: ``[files/]p10/p10000032/s50414267/<image>``, by the record's patient and study
    or by those in the path. An image with an identifier of MIMIC may also lie in the root itself."""
    stem = _without_ending(os.path.basename(text.replace("\\", "/")))
    named = _MIMIC_PATH.search(text.replace("\\", "/"))
    patient = named[1] if named else patient_of(item)
    studies = [named[2]] if named else _studies_of(item)
    for root in roots:
        for tree in (root, os.path.join(root, "files")):
            if patient is not None and patient.isdigit():
                folder = os.path.join(tree, f"p{patient[:2]}", f"p{patient}")
                for study in [f"s{study}" for study in studies] or _folders_in(folder):
                    yield from (os.path.join(folder, study, stem + ending) for ending in _ENDINGS)
        if _MIMIC_ID.fullmatch(stem):
            yield from (os.path.join(root, stem + ending) for ending in _ENDINGS)


def _studies_of(item: Mapping[str, Any]) -> list[str]:
    study = item.get("study_id")
    studies = study if isinstance(study, list) else [study]
    return [study_key(entry) for entry in studies if isinstance(entry, int | float | str)]


def _folders_in(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []

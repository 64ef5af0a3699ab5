"""X-rays for a page: small copies inside it, or addresses of the files.

Radiographs are embedded if they come from the demo world, or on request. So no credentialed image slips into a file
that is passed on. Otherwise the page links to their files.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from swift.llm.images.source import ImageSource, open_image
from swift.utils.errors import UserError
from swift.utils.files import try_read_json
from tools.reports.page import data_uri

THUMBNAIL_SIDES = (320, 256, 200, 160, 128, 96, 72, 48)  # pixels of the longer side, the first that fits is taken
_TRIED = 16  # images measured to choose a size


def image_addresses(paths: Sequence[str], *, embed: bool, limit: int) -> list[str]:
    """The address for the ``<img>`` of each path: a JPEG as data URI if it may be embedded, else its file.

    The more images there are, the smaller they are shown, so that embedded images take at most ``limit`` bytes
    together, if that is possible at all. Raises UserError for an image to embed that cannot be read.
    """
    files = [Path(path) for path in paths]
    worlds = {folder for folder in {path.parent.parent for path in files} if _is_demo_world(folder)}
    chosen = [path for path in files if embed or (path.parent.parent in worlds and _may_be_drawn(path))]
    small = dict(zip(chosen, _shrink(chosen, limit), strict=True))
    return [small.get(path) or path.absolute().as_uri() for path in files]


def is_drawn(path: Path) -> bool:
    """True if the image exists and belongs to a demo world, whose manifest is beside the image folder."""
    return _may_be_drawn(path) and _is_demo_world(path.parent.parent)


def _may_be_drawn(path: Path) -> bool:
    return path.name.startswith("demo-") and path.is_file()


def _is_demo_world(folder: Path) -> bool:
    manifest = try_read_json(folder / "manifest.json") or {}
    return {"arguments", "counts", "sha256"} <= manifest.keys()


def _shrink(paths: Sequence[Path], limit: int) -> list[str]:
    """Data URIs of the largest size in `THUMBNAIL_SIDES` that keeps to ``limit`` bytes, or of the smallest."""
    sample = paths[:: max(1, len(paths) // _TRIED)]
    for side in THUMBNAIL_SIDES:
        last = side == THUMBNAIL_SIDES[-1]
        if not last and len(paths) * sum(map(len, _encode(sample, side))) > limit * max(1, len(sample)):
            continue
        uris = _encode(paths, side)
        if last or sum(map(len, uris)) <= limit:
            break
    return uris


def _encode(paths: Sequence[Path], side: int) -> list[str]:
    with ThreadPoolExecutor() as threads:
        return list(threads.map(lambda path: _thumbnail(path, side), paths))


def _thumbnail(path: Path, side: int) -> str:
    try:
        image = open_image(ImageSource.from_path(path)).convert("L")
    except UserError as error:
        raise UserError(f"{error}, or run without --embed_images") from error
    image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=75 if side > 160 else 60, optimize=True)
    return data_uri(buffer.getvalue(), "jpeg")

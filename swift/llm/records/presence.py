"""Images that records have and lack, so that no vision model is trained or evaluated blind.

A record *lacks* an image if it has none at all, and *leaves one unread* if it has a field that looks like an image but
is not among those that are read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from swift.llm.records.image_fields import telling_fields
from swift.llm.records.record import Record

FIELDS_SHOWN = 12
ALLOWED = "--unseen count"


def describe_images(records: Sequence[Record]) -> str:
    """The number of records by their number of images, such as "12 with 1 image, 1 without an image"."""
    counts = Counter(len(record.images) for record in records)
    numbers = sorted(number for number in counts if number)
    shown = [f"{counts[number]} with {number} image{'s' * (number > 1)}" for number in numbers]
    return ", ".join(shown + ([f"{counts[0]} without an image"] if counts[0] else [])) or "no images"


def unseen_images(records: Sequence[Record]) -> dict[int, str]:
    """Problems by position of the records that lack an image or leave one unread, in one line each."""
    blind = [position for position, record in enumerate(records) if not record.images]
    problems = {position: _lacks_image(records, position, len(blind)) for position in blind}
    for position, record in enumerate(records):
        if record.unread and position not in problems:
            problems[position] = f"{record.source}: {unread_problem(record.unread)}"
    return dict(sorted(problems.items()))


def unread_problem(unread: Sequence[str]) -> str:
    """The message about fields of a record that look like images and are not read."""
    return (
        f"field '{unread[0]}' looks like an image and is not read; name all fields of images with --image_fields, or "
        f"pass {ALLOWED}"
    )


def _lacks_image(records: Sequence[Record], position: int, count: int) -> str:
    record = records[position]
    others = len(records) - count
    having = (
        f"{others} other{'s have' if others > 1 else ' has'} one" if others else "none of the others has one either"
    )
    suspects = list(record.unread) or telling_fields(record.columns)
    if suspects:
        hint = f"field '{suspects[0]}' looks like one: name it with --image_fields"
    else:
        fields = sorted(record.columns.keys() - {"solution"})
        more = ", ..." if len(fields) > FIELDS_SHOWN else ""
        hint = f"its fields are {', '.join(fields[:FIELDS_SHOWN]) or 'none but messages'}{more}: name the image"
    return f"{record.source}: there is no image in it, and {having}; {hint}, or pass {ALLOWED} to go without"

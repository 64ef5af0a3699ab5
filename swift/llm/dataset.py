"""Datasets on disk, read into :class:`Record`, and the check that finds every bad record before training starts.

A file is a JSON list or JSON lines (recognized by content) of objects in any of these forms:

    training A   images [paths], messages [{role: user, content}], solution
    training B   messages ending in an assistant turn (the solution), image (path or base64)
    evaluation   question, explanation (the solution), image_ids (``<image_id>.png`` in the image folder)

NaN and Infinity, which are not JSON but are written by some programs, are read as null. Messages count records from 0.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from swift.llm.images.source import ImageSource, check_image, is_base64
from swift.utils.errors import UserError

MESSAGE_ROLES = ("system", "user", "assistant")
IMAGE_FIELDS = ("images", "image", "image_ids")
PLACEHOLDER = re.compile(r"<image>|<\|?image_(\d+)\|?>")
CHECKING_THREADS = 8
_HALF_PAIR = re.compile(r"[\ud800-\udfff]")  # searched after JSON is read, which joins complete pairs


@dataclass(frozen=True)
class Record:
    """One question with its images, in the form that all later stages use."""

    images: tuple[ImageSource, ...]
    messages: tuple[dict[str, str], ...]  # the prompt: {role, content}, without the final assistant turn
    solution: str | None
    columns: dict[str, Any]  # for rewards: the record's fields without messages and images, and ``solution``
    source: str  # for messages: "valid.json record 12"


def load_records(
    paths: Sequence[str | Path],
    image_root: str | Path | None = None,
    *,
    require_solution: bool = False,
    max_samples: int | None = None,
) -> list[Record]:
    """Read dataset files, in order, up to ``max_samples`` records in all.

    Relative image paths are searched in ``image_root`` (default: the ``images`` folder beside or above each file),
    beside it, and in the working folder. The image must be inside ``image_root``. Images are not opened.

    Raises UserError for the first malformed file, or for all malformed records at once.
    """
    records: list[Record] = []
    problems: list[str] = []
    for path in paths:
        file = _existing(Path(path))
        root = Path(image_root) if image_root is not None else _default_image_root(file)
        if image_root is not None and not root.is_dir():
            raise UserError(f"image root {root} is not a folder; correct --image_root")
        items = read_items(file)
        if not items:
            raise UserError(f"dataset {file} holds no records; pass another file")
        for item, place in items[: None if max_samples is None else max_samples - len(records)]:
            try:
                records.append(_parse(item, place, root.resolve() if root else None, require_solution))
            except UserError as error:
                problems.append(f"{place}: {error}")
    raise_problems(problems)
    return records


def check_records(records: Iterable[Record], decode: bool = True) -> None:
    """Raise one UserError for all records whose placeholders or images are wrong: the first problem and a count.

    Each distinct image is read once, and decoded to its last byte unless ``decode`` is False.
    """
    records = list(records)
    sources = {source.key: source for record in records for source in record.images}

    def problem_of(source: ImageSource) -> str | None:
        try:
            check_image(source, decode)
        except UserError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(CHECKING_THREADS) as pool:
        problems = pool.map(problem_of, sources.values())
        bad = dict(zip(sources, tqdm(problems, "checking images", len(sources), leave=False, delay=2), strict=True))
    raise_problems(f"{record.source}{problem}" for record in records for problem in _problems(record, bad))


def image_placeholders(messages: Iterable[dict[str, str]]) -> list[int]:
    """Numbers (from 1) of the images whose placeholders are in user turns, in order of appearance.

    ``<image>`` is the next image, ``<image_k>`` and ``<|image_k|>`` are image k.
    """
    numbers: list[int] = []
    for message in messages:
        if message["role"] == "user":
            for match in PLACEHOLDER.finditer(message["content"]):
                numbers.append(int(match[1]) if match[1] else len(numbers) + 1)
    return numbers


def _problems(record: Record, bad_images: dict[str, str | None]) -> Iterator[str]:
    numbers, count = image_placeholders(record.messages), len(record.images)
    if numbers and sorted(numbers) != list(range(1, count + 1)):
        yield (
            f": field 'messages': {len(numbers)} image placeholders (images {numbers}) for {count} images; "
            "name each image once, or leave the placeholders out"
        )
    for source in record.images:
        if problem := bad_images[source.key]:
            yield f": {source.place}: {problem}"


def raise_problems(problems: Iterable[str]) -> None:
    """Raise a one-line UserError with the first problem and a count of the others, if there are any problems."""
    problems = list(problems)
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise UserError(problems[0] + more)


def _existing(path: Path) -> Path:
    """``path``, or the same file under a name of the published launcher: <size>.json, valid_sample_vqa_<size>.json."""
    size = path.stem.removeprefix("valid_sample_vqa_")
    for candidate in (path, path.with_stem(size), path.with_stem(f"valid_sample_vqa_{size}")):
        if candidate.is_file():
            return candidate
    if path.is_dir():
        raise UserError(f"dataset {path} is a folder; name a file in it")
    raise UserError(f"dataset {path} does not exist; correct the path")


def _default_image_root(file: Path) -> Path | None:
    return next((parent / "images" for parent in file.absolute().parents if (parent / "images").is_dir()), None)


def read_items(path: Path) -> list[tuple[Any, str]]:
    """The file's objects as they are, each with its name for messages. Raises UserError for a file that is not JSON."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"dataset {path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    except OSError as error:
        raise UserError(f"dataset {path} cannot be read ({error.strerror}); fix its permissions") from error
    if text.lstrip().startswith("["):
        items = _parse_json(text, path, first_line=1)
        return [(item, f"{path} record {index}") for index, item in enumerate(items)]
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    return [
        (_parse_json(line, path, number), f"{path} record {index} (line {number})")
        for index, (number, line) in enumerate(lines)
    ]


def _parse_json(text: str, path: Path, first_line: int) -> Any:
    try:
        return json.loads(text, parse_constant=lambda _: None)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        raise UserError(
            f"dataset {path} is malformed JSON at line {line}, column {error.colno} ({error.msg}); "
            "it must be a JSON list, or one JSON object per line"
        ) from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"dataset {path} from line {first_line} cannot be read ({error}); fix the file") from error


def _parse(item: Any, place: str, root: Path | None, require_solution: bool) -> Record:
    turns, answer = _turns(item)
    solution = _solution(item, answer)
    if require_solution and solution is None:
        raise UserError(
            "field 'solution' is missing or empty; the rewards compare with it: add it, "
            "or a final assistant turn, or 'explanation'"
        )
    columns = {key: value for key, value in item.items() if key not in ("messages", "images", "image")}
    images = tuple(_image(text, field, root) for text, field in _image_fields(item))
    return Record(images, turns, solution, columns | {"solution": solution}, place)


def find_question(item: Any) -> str:
    """The text of the record's question: its ``question``, else its last user turn without image placeholders. Raises
    UserError if ``item`` is not a record."""
    turns, _ = _turns(item)
    return _text(item, "question") or last_question(turns)


def last_question(messages: Sequence[dict[str, str]]) -> str:
    """The last turn of a prompt, which is the user's, without image placeholders; "" for a prompt without turns."""
    return PLACEHOLDER.sub("", messages[-1]["content"]).strip() if messages else ""


def find_solution(item: Any) -> str | None:
    """The record's reference answer: its ``solution``, final assistant turn or ``explanation``; None if it has none.
    Raises UserError if ``item`` is not a record."""
    _, answer = _turns(item)
    return _solution(item, answer)


def _solution(item: dict[str, Any], answer: str | None) -> str | None:
    return next((text for text in (_text(item, "solution"), answer, _text(item, "explanation")) if text), None)


def _turns(item: Any) -> tuple[tuple[dict[str, str], ...], str | None]:
    """The prompt's turns, and the final assistant turn if there is one."""
    if not isinstance(item, dict):
        raise UserError(f"a record is an object, this one is {_kind(item)}")
    messages = item.get("messages")
    if messages is None:
        question = _text(item, "question")
        if question is None:
            raise UserError("no field 'messages' nor 'question'; the record asks nothing")
        messages = [{"role": "user", "content": question}]
    if not isinstance(messages, list):
        raise UserError(f"field 'messages' must be a list of turns, it is {_kind(messages)}")
    for position, message in enumerate(messages):
        if not isinstance(message, dict) or message.get("role") not in MESSAGE_ROLES:
            raise UserError(f"field 'messages' turn {position}: needs a role, one of {', '.join(MESSAGE_ROLES)}")
        if not isinstance(message.get("content"), str):
            raise UserError(
                f"field 'messages' turn {position}: 'content' must be text, it is {_kind(message.get('content'))}"
            )
        _check_whole(message["content"], f"field 'messages' turn {position}")
    turns = [{"role": message["role"], "content": message["content"]} for message in messages]
    answer = turns.pop()["content"] if turns and turns[-1]["role"] == "assistant" else None
    if not turns or turns[-1]["role"] != "user":
        raise UserError('field \'messages\' has no user turn to answer; add {"role": "user", ...}')
    return tuple(turns), answer


def _image_fields(item: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Each image's text with the name of its field."""
    field = next((name for name in IMAGE_FIELDS if item.get(name) is not None), None)
    if field is None:
        return
    values = item[field] if isinstance(item[field], list) else [item[field]]
    for position, value in enumerate(values):
        name = f"field '{field}'" + (f"[{position}]" if isinstance(item[field], list) else "")
        if not isinstance(value, str) or not value:
            raise UserError(f"{name} must be a path or base64 text, it is {_kind(value)}")
        yield (f"{value}.png" if field == "image_ids" else value), name


def _image(text: str, field: str, root: Path | None) -> ImageSource:
    try:
        source = ImageSource.from_base64(text) if is_base64(text) else ImageSource.from_path(_inside(text, root))
        return replace(source, place=field)
    except (UserError, OSError, ValueError) as error:  # a path may hold a zero byte, or a loop of links
        raise UserError(f"{field}: {error}") from error


def _inside(text: str, root: Path | None) -> Path:
    """The real path of ``text`` inside ``root``. If there is no such file, the path it would have in ``root``."""
    if root is None:
        raise UserError("no folder named images is beside or above the dataset file; pass --image_root")
    places = [(base / text).resolve() for base in (root, root.parent, Path.cwd())]
    inside = [place for place in places if place.is_relative_to(root)]
    if not inside:
        raise UserError(f"path {text!r} leads outside the image root {root}; move the image or pass --image_root")
    return next((place for place in inside if place.is_file()), inside[0])


def _text(item: dict[str, Any], field: str) -> str | None:
    value = item.get(field)
    if value is not None and not isinstance(value, str):
        raise UserError(f"field '{field}' must be text, it is {_kind(value)}")
    _check_whole(value or "", f"field '{field}'")
    return value


def _check_whole(text: str, place: str) -> None:
    r"""Refuse half of a surrogate pair (``\ud800``): JSON can hold it, tokenizers and UTF-8 files cannot."""
    if half := _HALF_PAIR.search(text):
        raise UserError(
            f"{place} holds half a character, \\u{ord(half[0]):04x} after {half.start()} characters; "
            "write the complete character, or leave it out"
        )


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return "an empty text" if value == "" else names.get(type(value), "a number")

"""Broken documents for Hypothesis, and the verdict on what a program makes of them.

CI draws the same cases every time. ``CHEX_FUZZ=20`` draws twenty times as many, and others in each run.
"""

from __future__ import annotations

import copy
import datetime
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from swift.utils.errors import UserError
from swift.utils.lines import shortened, without_controls

TIMES = int(os.environ.get("CHEX_FUZZ", "0"))
LONGEST = 620  # characters of a refusal, with "error: "
TEXTS = st.one_of(
    st.text(max_size=30),
    st.sampled_from(
        ["", " ", "nan", "None", "-1", "1e999", "../x", "/dev/zero", "a.png", "\ud800", "\x00", "\x1b[2J", "a\nb", "[1",
         "{}", "<image>", "<|image_1|>", "<think>", "</answer>", "=1+1", "x" * 5000, "9" * 400, "\u202e", "𝟙", "²"]
    ),
)  # fmt: skip
NUMBERS = st.one_of(
    st.integers(),
    st.floats(),
    st.sampled_from([0, -1, 2**31, 2**53, 2**63, -(2**63) - 1, 10**400, 1e308, -0.0, float("nan"), float("inf")]),
)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=6
)


def fuzz(cases: int) -> settings:
    """Settings of a test with so many cases."""
    return settings(
        max_examples=cases * max(1, TIMES),
        derandomize=not TIMES,
        database=None,
        deadline=datetime.timedelta(seconds=20),  # far above any case, so that only a hang fails
        suppress_health_check=list(HealthCheck),
    )


def places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """The paths of all values within a JSON value."""
    yield path
    if isinstance(value, dict):
        for name in value:
            yield from places(value[name], (*path, name))
    elif isinstance(value, list):
        for index in range(len(value)):
            yield from places(value[index], (*path, index))


@st.composite
def mutated(draw: st.DrawFn, document: Any, most: int = 3) -> Any:
    """``document`` with up to ``most`` of its values replaced, removed, doubled or renamed."""
    document = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, most))):
        path = draw(st.sampled_from(list(places(document))))
        if not path:
            if draw(st.integers(0, 9)) == 0:
                return draw(VALUES)
            continue
        around = document
        for key in path[:-1]:
            around = around[key]
        match draw(st.sampled_from(["replace", "replace", "replace", "remove", "again", "rename"])):
            case "replace":
                around[path[-1]] = draw(VALUES)
            case "remove":
                del around[path[-1]]
            case "again" if isinstance(around, list):
                around.append(copy.deepcopy(around[path[-1]]))
            case "rename" if isinstance(around, dict):
                around[draw(TEXTS)] = around.pop(path[-1])
    return document


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """``data`` cut, with other bytes in it, or both."""
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, max(0, len(data) - 1)))
        match draw(st.sampled_from(["cut", "put", "flip", "drop"])):
            case "cut":
                data = data[:place]
            case "put":
                data = data[:place] + draw(st.binary(min_size=1, max_size=8)) + data[place:]
            case "flip" if data:
                data = data[:place] + bytes([data[place] ^ draw(st.integers(1, 255))]) + data[place + 1 :]
            case "drop":
                data = data[:place] + data[place + draw(st.integers(1, 20)) :]
    return data


def json_bytes(value: Any) -> bytes:
    """A JSON file as other programs write it, with NaN and halves of surrogate pairs."""
    return json.dumps(value).encode()


def documents(document: Any) -> st.SearchStrategy[bytes]:
    """Files that were ``document``: with other values, or with other bytes."""
    return st.one_of(mutated(document).map(json_bytes), damaged(json_bytes(document)))


def refusal(function: Callable[[], Any], kind: type[ValueError] = UserError) -> str | None:
    """The line that a command prints if ``function`` refuses its input with an error of this ``kind``, checked to be a
    line. None if it does not. Any other error is a bug and is raised."""
    try:
        function()
    except kind as error:
        refused = str(error)
    else:
        return None
    line = f"error: {shortened(without_controls(refused))}"
    assert refused.strip()
    assert is_line(line), line
    return line


def is_line(text: str) -> bool:
    """True if ``text`` is one line without orders for a terminal."""
    return len(text.splitlines()) == 1 and without_controls(text) == text and len(text) <= LONGEST


def check_command(status: int, error: str) -> None:
    """Check that a command did its work, or said in one last line why not."""
    assert status in (0, 2), (status, error)
    last = error.splitlines()[-1:] if status == 2 else []
    assert all(line.startswith("error: ") and is_line(line) for line in last), error


def snapshot(folder: Path) -> dict[str, bytes]:
    """The contents of all files below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}

"""Knowledge graphs as text for a terminal: entities by type, findings first, each with its relations."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator

from ReXKG.graph import (
    ANATOMY,
    DEVICES_ABSENT,
    DEVICES_PRESENT,
    DISORDER_ABSENT,
    DISORDER_PRESENT,
    ENTITY_TYPES,
    LOCATED_AT,
    MODIFY,
    SUGGESTIVE_OF,
    Graph,
)

_TITLES = {
    DISORDER_PRESENT: "disorders present",
    DISORDER_ABSENT: "disorders not present",
    DEVICES_PRESENT: "devices present",
    DEVICES_ABSENT: "devices not present",
    "concept": "concepts",
    "size": "sizes",
}
_COLORS = {DISORDER_PRESENT: 31, DISORDER_ABSENT: 32, DEVICES_PRESENT: 33, DEVICES_ABSENT: 32, ANATOMY: 36}
_BOLD = 1
_SHOWN_FIRST = (DISORDER_PRESENT, DISORDER_ABSENT, DEVICES_PRESENT, DEVICES_ABSENT)
_ORDER = (*_SHOWN_FIRST, *(kind for kind in ENTITY_TYPES if kind not in _SHOWN_FIRST))
# A relation is shown once: "modify" beside what is modified, the others beside their source.
_PHRASES = {MODIFY: "modified by", LOCATED_AT: "located at", SUGGESTIVE_OF: "suggestive of"}
_INDENT = "  "
_WIDEST_NAME = 24


def format_graph(graph: Graph, width: int = 80, color: bool = False) -> str:
    """The graph in lines of at most ``width`` columns; a longer word has a line of its own. ``color`` gives titles ANSI
    codes."""
    related = _relations_by_entity(graph)
    longest = max((columns(entity) for entity in related), default=0)
    indent = _INDENT + " " * (min(longest, _WIDEST_NAME) + 2)
    lines = []
    for kind in _ORDER:
        entities = [entity for entity, label in graph["entities"].items() if label == kind]
        if not entities:
            continue
        title = _TITLES.get(kind, kind)
        lines.append(f"\x1b[{_BOLD};{_COLORS.get(kind, 39)}m{title}\x1b[0m" if color else title)
        for entity in entities:
            if entity in related:
                name = _INDENT + printable(entity)
                name += " " * max(2, len(indent) - columns(name))
                lines += wrap(_words(related[entity]), width, name, indent)
        plain = [entity for entity in entities if entity not in related]
        lines += wrap(list(_separated(plain, ",")), width, _INDENT, _INDENT)
    return "\n".join(lines) or "no entities"


def _relations_by_entity(graph: Graph) -> dict[str, dict[str, dict[str, None]]]:
    """Entity to relation to the entities on its other side, each once, in order."""
    related: dict[str, dict[str, dict[str, None]]] = defaultdict(lambda: {kind: {} for kind in _PHRASES})
    for relation in graph["relations"]:
        ends = relation["source_entity"], relation["target_entity"]
        subject, other = reversed(ends) if relation["type"] == MODIFY else ends
        related[subject][relation["type"]][other] = None
    return related


def _words(relations: dict[str, dict[str, None]]) -> list[str]:
    """The words of "modified by small, new; located at pleural"."""
    phrases = [[_PHRASES[kind], *_separated(others, ",")] for kind, others in relations.items() if others]
    for phrase in phrases[:-1]:
        phrase[-1] += ";"
    return [word for phrase in phrases for word in phrase]


def _separated(words: Iterable[str], mark: str) -> Iterator[str]:
    """The words made printable, all but the last followed by ``mark``."""
    words = list(map(printable, words))
    yield from (word + mark for word in words[:-1])
    yield from words[-1:]


def wrap(words: Iterable[str], width: int, first: str = "", indent: str = "") -> list[str]:
    """Lines of at most ``width`` columns; a longer word has a line of its own. The first line begins with ``first`` and
    the others with ``indent``. Without words there are no lines. Takes linear time, unlike `textwrap` on long words."""
    lines: list[str] = []
    line: list[str] = []
    start, used = first, columns(first)
    for word in words:
        size = columns(word)
        if line and used + size > width:
            lines.append(start + " ".join(line))
            start, used, line = indent, columns(indent), []
        line.append(word)
        used += size + 1
    return [*lines, start + " ".join(line)] if line else lines


def printable(text: str) -> str:
    """``text`` without codes that a terminal would obey: control and other unprintable characters become U+FFFD."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def columns(text: str) -> int:
    """The number of terminal columns that the text takes: wide East Asian characters and emoji two, accents none."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF") for c in text)

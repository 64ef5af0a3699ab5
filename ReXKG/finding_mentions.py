"""Places in a statement that name a finding, and the division of the words around them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ReXKG.finding_words import Tag, WordKind, finding_words
from ReXKG.graph import ASSERTED_TYPES, DENIED_TYPES, DEVICES_ABSENT, DEVICES_PRESENT, Graph

Extract = Callable[[list[str]], list[Graph]]

CARDIOMEGALY = "cardiomegaly"
MOST_FINDINGS = 40  # in one statement
NEAR = 3  # words before an attribute within which a negation denies it
_DEVICES = frozenset({DEVICES_PRESENT, DEVICES_ABSENT})
_MARKS = re.compile(r"[;*`\"\[\]|—–→]+|(?<=\w\w)['’]s\b")


class FindingMention(NamedTuple):
    """A finding at the words ``start`` to ``end`` (excluded)."""

    start: int
    end: int
    name: str
    present: bool
    is_device: bool
    text: str  # its entity, "" if the statement says it of an organ


def spaced_words(text: str) -> list[str]:
    """The words of a graph's sentence or entity, with marks such as ";" and "*" as words of their own."""
    return _MARKS.sub(r" \g<0> ", text).split()


def entity_mentions(graph: Graph, words: Sequence[str], tags: Sequence[Tag]) -> list[FindingMention]:
    """The disorders and devices in the words. Those side by side are one ("endotracheal tube")."""
    mentions: list[FindingMention] = []
    types = {text: kind for text, kind in graph["entities"].items() if kind in ASSERTED_TYPES | DENIED_TYPES}
    by_first: dict[str, list[tuple[list[str], str]]] = {}
    for text in sorted(types, key=len, reverse=True):
        parts = spaced_words(text)
        by_first.setdefault(parts[0] if parts else text, []).append((parts, text))
    position = 0
    while position < len(words):
        following = by_first.get(words[position], ())
        named = next((pair for pair in following if words[position : position + len(pair[0])] == pair[0]), None)
        if named is None:
            position += 1
            continue
        text, start, position = named[1], position, position + len(named[0])
        is_device, present = types[text] in _DEVICES, types[text] in ASSERTED_TYPES
        last = mentions[-1] if mentions else None
        if last and (last.end, last.is_device, last.present) == (start, is_device, present):
            start = mentions.pop().start
        name = finding_words().name(words, start, position)
        mentions.append(FindingMention(start, position, name, present, is_device, text))
    heart = any(tag.kind == WordKind.ORGAN and tag.value == CARDIOMEGALY for tag in tags)
    enlarged = {tag.start for tag in tags if tag.kind == WordKind.ENLARGED}
    return [m._replace(name=CARDIOMEGALY) if heart and m.end - 1 in enlarged else m for m in mentions]


def organ_mentions(
    graph: Graph, words: Sequence[str], tags: Sequence[Tag], mentioned: Sequence[FindingMention]
) -> list[FindingMention]:
    """Findings that the statement tells through organs: "the lungs are clear", "the heart is not enlarged"."""
    entities = {part for text in graph["entities"] for part in text.split()}
    organs = [tag for tag in tags if tag.kind == WordKind.ORGAN and entities.intersection(words[tag.start : tag.end])]
    disorders = {mention.end - 1 for mention in mentioned}
    mentions: list[FindingMention] = []
    last = 0
    for tag in tags:
        if tag.kind == WordKind.CLAUSE:
            last = tag.end
        if tag.kind not in (WordKind.NORMAL, WordKind.ENLARGED) or tag.start in disorders:
            continue
        said_of = _said_of(tag, organs, tags, last)
        if tag.kind == WordKind.ENLARGED:
            said_of = [organ for organ in said_of if organ.value == CARDIOMEGALY]
        for organ in said_of[:MOST_FINDINGS]:
            start, end = min(organ.start, tag.start), max(organ.end, tag.end)
            denied = any(t.kind == WordKind.NOT and start - NEAR <= t.start < end and t.start >= last for t in tags)
            mentions.append(
                FindingMention(start, end, organ.value, (tag.kind == WordKind.ENLARGED) != denied, False, "")
            )
        last = tag.end if tag.kind == WordKind.NORMAL else last
    return list({(m.name, m.present): m for m in mentions}.values())


def _said_of(tag: Tag, organs: Sequence[Tag], tags: Sequence[Tag], since: int) -> list[Tag]:
    """The organs that a word is said of: one right after it ("clear lungs"), else those before it."""
    stop = next((t.start for t in tags if t.kind == WordKind.BREAK and t.start >= tag.end), tag.end + NEAR)
    after = [organ for organ in organs if tag.end <= organ.start < min(stop, tag.end + 2)]
    return after[:1] or [organ for organ in organs if since <= organ.start < tag.start]


def divide(mentions: Sequence[FindingMention], tags: Sequence[Tag], length: int) -> list[int]:
    """The place at which the part of each finding begins, and the end of the statement."""
    cuts = [0]
    for first, second in itertools.pairwise(mentions):
        marks = [
            tag.start
            for tag in tags
            if tag.kind in (WordKind.BREAK, WordKind.NOT) and first.end <= tag.start < second.start
        ]
        cuts.append(max(marks, default=min(first.end, second.start)))
    return [*cuts, length]


def with_own_polarity(
    mentions: list[FindingMention], words: Sequence[str], cuts: Sequence[int], extract: Extract
) -> list[FindingMention]:
    """The mentions with the polarity of their own place. The graph knows only that of a word's last occurrence."""
    later: set[str] = set()
    prefixes: dict[int, str] = {}
    for number in range(len(mentions) - 1, -1, -1):
        text = mentions[number].text
        if text and text in later:
            following = next(n for n in range(number + 1, len(mentions)) if mentions[n].text == text)
            prefixes[number] = " ".join(words[: cuts[following]])
        later.add(text)
    graphs = dict(zip(prefixes, extract(list(prefixes.values())) if prefixes else (), strict=True))
    result = list(mentions)
    for number, graph in graphs.items():
        kind = graph["entities"].get(mentions[number].text)
        if kind in ASSERTED_TYPES or kind in DENIED_TYPES:
            result[number] = mentions[number]._replace(present=kind in ASSERTED_TYPES)
    return result

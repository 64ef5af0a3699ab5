"""Findings: the disorders and devices of a text, each with its polarity, sides, zones, severity, course and place.

A graph merges entities by their text, so "left effusion, no right effusion" has one effusion. Findings keep the two
apart. They are read from the graphs of single statements, whatever extractor made them:

1. Sentences that ask are left out, unless an answer follows ("Pneumothorax? No.").
2. The disorders and devices of a statement's graph are found in its words. If a word occurs twice, the graph of the
   words before the second occurrence says what the first one is.
3. The words between two findings are divided at the last comma, "and", "no" or the like. An attribute belongs to the
   finding in whose part it stands. Members of a list share the place after it ("no effusion or nodule on the left").
4. An organ called normal denies what `finding_words.tsv` says ("the heart size is normal": no cardiomegaly).
5. Findings of one text that agree are merged, and an asserted bilateral finding becomes one per side.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from ReXKG.finding_words import (
    BREAK,
    CLAUSE,
    COMPARED,
    COURSE,
    EARLIER,
    ENLARGED,
    JOINS,
    NORMAL,
    NOT,
    ORGAN,
    SEVERITY,
    SIDE,
    ZONE,
    Tag,
    finding_words,
)
from ReXKG.graph import (
    ANATOMY,
    ASSERTED_TYPES,
    DENIED_TYPES,
    DEVICES_ABSENT,
    DEVICES_PRESENT,
    SUGGESTIVE_OF,
    Graph,
)
from ReXKG.text import split_sentences

Extract = Callable[[list[str]], list[Graph]]

ABNORMALITY, DEVICE, CARDIOMEGALY = "abnormality", "device", "cardiomegaly"
GENERIC = frozenset({ABNORMALITY, DEVICE})  # names that stand for anything of their sort
NEW, INCREASED, DECREASED, STABLE, RESOLVED = "new", "increased", "decreased", "stable", "resolved"
CACHED_STATEMENTS = 50_000
LONGEST_STATEMENT = 200  # words of a statement that are read
MOST_FINDINGS = 40  # in one statement
_SENTENCE = re.compile(r"(?<=[!?\n])|(?<=\.)(?!\d)")
_ANSWER = re.compile(r"\s*(?:yes|no|not|none|negative|positive|present|absent)\b", re.IGNORECASE)
_DEVICES = frozenset({DEVICES_PRESENT, DEVICES_ABSENT})
_NEAR = 3  # words before an attribute within which a negation denies it
_NO_WORDS: frozenset[str] = frozenset()


class Finding(NamedTuple):
    """One claim of a text.

    Attributes:
        name: the finding's name, the same for its synonyms: "effusion", "endotracheal tube".
        present: False if the text denies it.
        sides: "left", "right", both or none.
        zones: "upper", "mid", "lower", some or none.
        severity: 1 (small, mild), 2 (moderate) or 3 (large, severe); None if it is not said.
        course: new, increased, decreased, stable or resolved; None if it is not said.
        places: the anatomy words beside a device.
        is_device: True for a device.
        is_earlier: True if it is said of an earlier image.
    """

    name: str
    present: bool
    sides: frozenset[str] = _NO_WORDS
    zones: frozenset[str] = _NO_WORDS
    severity: int | None = None
    course: str | None = None
    places: frozenset[str] = _NO_WORDS
    is_device: bool = False
    is_earlier: bool = False


class Reading(NamedTuple):
    """A text as findings.

    Attributes:
        findings: the merged findings in order of mention.
        repeated: findings of statements that the text has made before in the same words.
        statements: the words of each statement, lower-cased and joined with blanks.
    """

    findings: tuple[Finding, ...]
    repeated: int
    statements: tuple[str, ...]


class FindingReader:
    """Reads texts as findings through ``extract`` (texts to graphs). Statements that were read before are remembered,
    at most `CACHED_STATEMENTS`."""

    def __init__(self, extract: Extract) -> None:
        self._extract = extract
        self._known: OrderedDict[str, tuple[Finding, ...]] = OrderedDict()

    def __call__(self, texts: Sequence[str]) -> list[Reading]:
        """One reading per text, in order."""
        statements = [split_statements(text) for text in texts]
        known = self._read_new(dict.fromkeys(statement for listed in statements for statement in listed))
        return [_join(listed, known) for listed in statements]

    def _read_new(self, statements: dict[str, None]) -> dict[str, tuple[Finding, ...]]:
        known = {statement: self._known[statement] for statement in statements if statement in self._known}
        new = [statement for statement in statements if statement not in known]
        for statement, graph in zip(new, self._extract(new) if new else (), strict=True):
            known[statement] = self._known[statement] = read_statement(graph, self._extract)
        for statement in statements:
            self._known.move_to_end(statement)
        while len(self._known) > CACHED_STATEMENTS:
            self._known.popitem(last=False)
        return known


def split_statements(text: str) -> list[str]:
    """The sentences of a text that state something: all but questions that no answer follows."""
    if "?" in text:
        parts = _SENTENCE.split(text)
        answered = [bool(_ANSWER.match(after)) for after in [*parts[1:], ""]]
        text = "".join(part for part, kept in zip(parts, answered, strict=True) if kept or not part.endswith("?"))
    return split_sentences(text)


def read_statement(graph: Graph, extract: Extract) -> tuple[Finding, ...]:
    """The findings of a statement's graph, in order, not merged. ``extract`` reads parts of a statement that has the
    same word twice."""
    words = graph["sentences"].split()[:LONGEST_STATEMENT]
    tags = finding_words().tag(words)
    entities = _entities(graph, words, tags)
    mentions = sorted([*entities, *_organs(graph, words, tags, entities)])[:MOST_FINDINGS]
    if not mentions:
        return ()
    cuts = _cuts(mentions, tags, len(words))
    mentions = _polarities(mentions, words, cuts, extract)
    findings = [
        _describe(mention, words, graph, [tag for tag in tags if start <= tag.start < end])
        for mention, start, end in zip(mentions, cuts, cuts[1:], strict=False)
    ]
    return tuple(_share_places(findings, mentions, graph, words, tags, cuts))


class _Mention(NamedTuple):
    """A finding at the words ``start`` to ``end`` (excluded)."""

    start: int
    end: int
    name: str
    present: bool
    is_device: bool
    text: str  # its entity, "" if the statement says it of an organ


def _entities(graph: Graph, words: Sequence[str], tags: Sequence[Tag]) -> list[_Mention]:
    """The disorders and devices in the words. Those side by side are one ("endotracheal tube")."""
    mentions: list[_Mention] = []
    types = {text: kind for text, kind in graph["entities"].items() if kind in ASSERTED_TYPES | DENIED_TYPES}
    by_first: dict[str, list[list[str]]] = {}
    for text in sorted(types, key=len, reverse=True):
        by_first.setdefault(text.split()[0] if text.split() else text, []).append(text.split())
    position = 0
    while position < len(words):
        following = by_first.get(words[position], ())
        parts = next((parts for parts in following if words[position : position + len(parts)] == parts), None)
        if parts is None:
            position += 1
            continue
        text, start, position = " ".join(parts), position, position + len(parts)
        is_device = types[text] in _DEVICES
        if mentions and mentions[-1].end == start and mentions[-1].is_device == is_device:
            start = mentions.pop().start
        name = finding_words().name(words, start, position)
        mentions.append(_Mention(start, position, name, types[text] in ASSERTED_TYPES, is_device, text))
    heart = any(tag.kind == ORGAN and tag.value == CARDIOMEGALY for tag in tags)
    enlarged = {tag.start for tag in tags if tag.kind == ENLARGED}
    return [m._replace(name=CARDIOMEGALY) if heart and m.end - 1 in enlarged else m for m in mentions]


def _organs(graph: Graph, words: Sequence[str], tags: Sequence[Tag], mentioned: Sequence[_Mention]) -> list[_Mention]:
    """What the statement says of organs: "the lungs are clear", "the cardiac silhouette is not enlarged"."""
    entities = {part for text in graph["entities"] for part in text.split()}
    organs = [tag for tag in tags if tag.kind == ORGAN and entities.intersection(words[tag.start : tag.end])]
    disorders = {mention.end - 1 for mention in mentioned}
    mentions: list[_Mention] = []
    last = 0
    for tag in tags:
        if tag.kind == CLAUSE:
            last = tag.end
        if tag.kind not in (NORMAL, ENLARGED) or tag.start in disorders:
            continue
        said_of = _said_of(tag, organs, tags, last)
        if tag.kind == ENLARGED:
            said_of = [organ for organ in said_of if organ.value == CARDIOMEGALY]
        for organ in said_of[:MOST_FINDINGS]:
            start, end = min(organ.start, tag.start), max(organ.end, tag.end)
            denied = any(t.kind == NOT and start - _NEAR <= t.start < end and t.start >= last for t in tags)
            mentions.append(_Mention(start, end, organ.value, (tag.kind == ENLARGED) != denied, False, ""))
        last = tag.end if tag.kind == NORMAL else last
    return list({(m.name, m.present): m for m in mentions}.values())


def _said_of(tag: Tag, organs: Sequence[Tag], tags: Sequence[Tag], since: int) -> list[Tag]:
    """The organs that a word is said of: one right after it ("clear lungs"), else those before it."""
    stop = next((t.start for t in tags if t.kind == BREAK and t.start >= tag.end), tag.end + _NEAR)
    after = [organ for organ in organs if tag.end <= organ.start < min(stop, tag.end + 2)]
    return after[:1] or [organ for organ in organs if since <= organ.start < tag.start]


def _cuts(mentions: Sequence[_Mention], tags: Sequence[Tag], length: int) -> list[int]:
    """Where the part of each finding begins, and the end of the statement."""
    cuts = [0]
    for first, second in zip(mentions, mentions[1:], strict=False):
        marks = [tag.start for tag in tags if tag.kind in (BREAK, NOT) and first.end <= tag.start < second.start]
        cuts.append(max(marks, default=min(first.end, second.start)))
    return [*cuts, length]


def _polarities(
    mentions: list[_Mention], words: Sequence[str], cuts: Sequence[int], extract: Extract
) -> list[_Mention]:
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


def _describe(mention: _Mention, words: Sequence[str], graph: Graph, tags: Sequence[Tag]) -> Finding:
    """The finding with the attributes of its part of the statement."""
    nots = [tag.start for tag in tags if tag.kind == NOT]
    middle = (mention.start + mention.end) / 2
    near = sorted((tag for tag in tags if tag.start != mention.start or tag.kind in (SIDE, ZONE)),
                  key=lambda tag: abs(tag.start - middle))  # fmt: skip
    asserted = [tag for tag in near if not any(tag.start - 2 <= place < tag.start for place in nots)]
    severity = next((int(tag.value) for tag in near if tag.kind == SEVERITY), None)
    # A negation right before a course denies the course of a finding that is there.
    courses = asserted if mention.present else near
    course = next((tag.value for tag in courses if tag.kind == COURSE), None)
    if (course == RESOLVED and mention.present) or (not mention.present and course in (STABLE, DECREASED)):
        course = None
    has_place = mention.name != CARDIOMEGALY
    places: list[str] = []
    if mention.is_device:
        anatomy = {text for text, kind in graph["entities"].items() if kind == ANATOMY}
        places = [word for word in words[mention.end :] if word in anatomy]
    return Finding(
        mention.name,
        mention.present,
        frozenset(side for tag in tags if tag.kind == SIDE and has_place for side in tag.value.split()),
        frozenset(tag.value for tag in tags if tag.kind == ZONE and has_place and not mention.is_device),
        severity,
        course,
        frozenset(places),
        mention.is_device,
        _is_earlier(tags),
    )


def _is_earlier(tags: Sequence[Tag]) -> bool:
    """True if the part names an earlier image, and not to compare with it."""
    compared = [tag.end for tag in tags if tag.kind == COMPARED]
    return any(tag.kind == EARLIER and not any(0 <= tag.start - end <= _NEAR for end in compared) for tag in tags)


def _share_places(
    findings: list[Finding],
    mentions: Sequence[_Mention],
    graph: Graph,
    words: Sequence[str],
    tags: Sequence[Tag],
    cuts: Sequence[int],
) -> list[Finding]:
    """The findings with the places that they share: those after a list, and that of what suggests a disorder."""
    modifiers = {part for text in graph["entities"] for part in text.split()}
    modifiers |= {words[n] for tag in tags if tag.kind == JOINS for n in range(tag.start, tag.end)}
    for number in range(len(findings) - 2, -1, -1):
        first, second = mentions[number], mentions[number + 1]
        is_list = first.end < second.start and modifiers.issuperset(words[first.end : second.start])
        if is_list and findings[number].present == findings[number + 1].present:
            behind = [tag for tag in tags if second.end <= tag.start < cuts[number + 2]]
            findings[number] = _fill_place(findings[number], findings[number + 1], any(
                tag.kind in (SIDE, ZONE) for tag in behind
            ))  # fmt: skip
    for relation in graph["relations"]:
        if relation["type"] == SUGGESTIVE_OF:
            at = {mention.text: number for number, mention in enumerate(mentions)}
            source, target = at.get(relation["source_entity"]), at.get(relation["target_entity"])
            if source is not None and target is not None:
                findings[target] = _fill_place(findings[target], findings[source], True)
    return findings


def _fill_place(finding: Finding, other: Finding, shared: bool) -> Finding:
    """The finding with the sides and zones of ``other`` if it has none of its own."""
    if not shared or finding.sides or finding.zones or finding.name == CARDIOMEGALY:
        return finding
    return finding._replace(sides=other.sides, zones=_NO_WORDS if finding.is_device else other.zones)


def _join(statements: Sequence[str], known: dict[str, tuple[Finding, ...]]) -> Reading:
    """The reading of a text from the findings of its statements."""
    seen: set[str] = set()
    findings: list[Finding] = []
    repeated = 0
    for statement in statements:
        words = " ".join(re.findall(r"[\w'’-]+", statement.lower()))
        if words in seen:
            repeated += max(1, len(known[statement]))
        else:
            findings += known[statement]
        seen.add(words)
    return Reading(tuple(merge_findings(findings)), repeated, tuple(statement.lower() for statement in statements))


def merge_findings(findings: Iterable[Finding]) -> list[Finding]:
    """One finding per side for asserted bilateral ones, and one for those that agree: an asserted one takes the
    attributes of both, a denial the wider of both."""
    merged: list[Finding] = []
    for finding in findings:
        sides = sorted(finding.sides) if finding.present and len(finding.sides) > 1 else [None]
        for side in sides:
            part = finding if side is None else finding._replace(sides=frozenset({side}))
            place = next((n for n, other in enumerate(merged) if _agree(part, other)), None)
            if place is None:
                merged.append(part)
            else:
                merged[place] = _union(merged[place], part)
    return merged


def _agree(first: Finding, second: Finding) -> bool:
    """True if both may be the same claim: no attribute of one differs from that of the other."""
    same = (first.name, first.present, first.is_device, first.is_earlier)
    if same != (second.name, second.present, second.is_device, second.is_earlier):
        return False
    pairs = [(first.sides, second.sides), (first.zones, second.zones), (first.severity, second.severity)]
    pairs.append((first.course, second.course))
    if not first.present:
        wider = all(not a or a == b for a, b in pairs), all(not b or a == b for a, b in pairs)
        return any(wider)
    return all(not a or not b or a == b for a, b in pairs)


def _union(first: Finding, second: Finding) -> Finding:
    if not first.present:
        filled = [sum(bool(value) for value in finding[2:6]) for finding in (first, second)]
        return first if filled[0] <= filled[1] else second
    return first._replace(
        sides=first.sides or second.sides,
        zones=first.zones or second.zones,
        severity=first.severity or second.severity,
        course=first.course or second.course,
        places=first.places | second.places,
    )

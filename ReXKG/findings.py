"""Findings: the disorders and devices of a text, each with its polarity, sides, zones, severity, course and place.

A graph merges entities by their text, so "left effusion, no right effusion" has one effusion. Findings keep the two
apart. They are read from the graphs of single statements, whatever extractor made them:

1. A text is divided into statements (`ReXKG/statements.py`). What is only asked states nothing.
2. The disorders and devices of a statement's graph are found in its words. If a word occurs twice, the graph of the
   words before the second occurrence says what the first one is.
3. The words between two findings are divided at the last comma, "and", "no" or the like. An attribute belongs to the
   finding in whose part it stands. Members of a list share the place after it ("no effusion or nodule on the left").
4. An organ called normal denies what `finding_words.tsv` says ("the heart size is normal": no cardiomegaly).
5. Findings of one text that agree are merged, and an asserted bilateral finding becomes one per side.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from ReXKG.finding_mentions import (
    CARDIOMEGALY,
    MOST_FINDINGS,
    NEAR,
    Extract,
    FindingMention,
    divide,
    entity_mentions,
    organ_mentions,
    spaced_words,
    with_own_polarity,
)
from ReXKG.finding_words import Tag, WordKind, finding_words
from ReXKG.graph import ANATOMY, SUGGESTIVE_OF, Graph
from ReXKG.statements import answered_sentences, stating_sentences

ABNORMALITY, DEVICE = "abnormality", "device"
GENERIC = frozenset({ABNORMALITY, DEVICE})  # names that stand for anything of their sort
NEW, DECREASED, STABLE, RESOLVED = "new", "decreased", "stable", "resolved"
UNRESOLVED = "unresolved"  # "no finding has resolved": the course of a denial
CACHED_STATEMENTS = 50_000
LONGEST_STATEMENT = 200  # words of a statement that are read
_NO_WORDS: frozenset[str] = frozenset()
_NO_PLACE = _NO_WORDS, _NO_WORDS
_DIFFUSE = frozenset({"edema", "congestion", "emphysema", "hyperinflation"})  # in both lungs unless a side is said
_EXPECTED_PLACES = frozenset({"chest", "thorax", "trachea"})  # of a device, which say nothing about its position


class StatedFinding(NamedTuple):
    """One claim of a text.

    Attributes:
        name: the finding's name, the same for its synonyms: "effusion", "endotracheal tube".
        present: False if the text denies it.
        sides: "left", "right", both or none.
        zones: "upper", "mid", "lower", some or none.
        severity: 1 (small, mild), 2 (moderate) or 3 (large, severe); None if it is not said.
        course: new, increased, decreased, stable, resolved or unresolved; None if it is not said.
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


class TextFindings(NamedTuple):
    """A text as findings.

    Attributes:
        findings: the merged findings in order of mention.
        repeated: findings of statements that the text has made before in the same words.
        statements: the sentences that say something (`answered_sentences`), in lower case.
    """

    findings: tuple[StatedFinding, ...]
    repeated: int
    statements: tuple[str, ...]


class FindingReader:
    """Reads texts as findings. Statements that were read before are remembered, at most `CACHED_STATEMENTS`. Threads
    take turns, since rewards run in several.

    Args:
        extract: returns the graphs of texts.
        split: returns the statements of a text, each of which ``extract`` reads alone.
    """

    def __init__(self, extract: Extract, split: Callable[[str], list[str]] = stating_sentences) -> None:
        self._extract = extract
        self._split = split
        self._known: OrderedDict[str, tuple[StatedFinding, ...]] = OrderedDict()
        self._turn = threading.RLock()

    def __call__(self, texts: Sequence[str]) -> list[TextFindings]:
        """One reading per text, in order."""
        statements = [self._split(text) for text in texts]
        with self._turn:
            known = self._read_new(dict.fromkeys(statement for listed in statements for statement in listed))
        return [_join(listed, known, text) for listed, text in zip(statements, texts, strict=True)]

    def _read_new(self, statements: dict[str, None]) -> dict[str, tuple[StatedFinding, ...]]:
        known = {statement: self._known[statement] for statement in statements if statement in self._known}
        new = [statement for statement in statements if statement not in known]
        for statement, graph in zip(new, self._extract(new) if new else (), strict=True):
            known[statement] = self._known[statement] = read_statement(graph, self._extract)
        for statement in statements:
            self._known.move_to_end(statement)
        while len(self._known) > CACHED_STATEMENTS:
            self._known.popitem(last=False)
        return known


def read_statement(graph: Graph, extract: Extract) -> tuple[StatedFinding, ...]:
    """The findings of a statement's graph, in order, not merged. ``extract`` reads parts of a statement that has the
    same word twice."""
    words = spaced_words(graph["sentences"])[:LONGEST_STATEMENT]
    tags = finding_words().tag(words)
    entities = entity_mentions(graph, words, tags)
    mentions = sorted([*entities, *organ_mentions(graph, words, tags, entities)])[:MOST_FINDINGS]
    if not mentions:
        return ()
    cuts = divide(mentions, tags, len(words))
    mentions = with_own_polarity(mentions, words, cuts, extract)
    findings = [
        _describe(mention, words[:end], graph, [tag for tag in tags if start <= tag.start < end])
        for mention, start, end in zip(mentions, cuts, cuts[1:], strict=False)
    ]
    return tuple(_share_places(findings, mentions, graph, words, tags, cuts))


def _describe(mention: FindingMention, words: Sequence[str], graph: Graph, tags: Sequence[Tag]) -> StatedFinding:
    """The finding with the attributes of its part of the statement."""
    nots = [tag.start for tag in tags if tag.kind == WordKind.NOT]
    middle = (mention.start + mention.end) / 2
    near = sorted((tag for tag in tags if tag.start != mention.start or tag.kind in (WordKind.SIDE, WordKind.ZONE)),
                  key=lambda tag: abs(tag.start - middle))  # fmt: skip
    asserted = [tag for tag in near if not any(tag.start - 2 <= place < tag.start for place in nots)]
    severity = next((int(tag.value) for tag in near if tag.kind == WordKind.SEVERITY), None)
    # A negation right before a course denies the course of a finding that is there.
    courses = asserted if mention.present else near
    course = next((tag.value for tag in courses if tag.kind == WordKind.COURSE), None)
    if (course == RESOLVED and mention.present) or (not mention.present and course in (STABLE, DECREASED)):
        course = None
    if course == RESOLVED and any(place < mention.start for place in nots):
        course = UNRESOLVED
    anatomy = {text for text, kind in graph["entities"].items() if kind == ANATOMY and mention.is_device}
    sides, zones = _place_of(tags) if mention.name != CARDIOMEGALY else _NO_PLACE
    if mention.name in _DIFFUSE and len(sides) > 1:
        sides = _NO_WORDS
    return StatedFinding(
        mention.name,
        mention.present,
        sides,
        _NO_WORDS if mention.is_device else zones,
        severity,
        course,
        frozenset(anatomy.intersection(words[mention.end :])) - _EXPECTED_PLACES,
        mention.is_device,
        _is_earlier(tags),
    )


def _is_earlier(tags: Sequence[Tag]) -> bool:
    """True if the part names an earlier image, and not to compare with it."""
    compared = [tag.end for tag in tags if tag.kind == WordKind.COMPARED]
    return any(
        tag.kind == WordKind.EARLIER and not any(0 <= tag.start - end <= NEAR for end in compared) for tag in tags
    )


def _share_places(
    findings: list[StatedFinding],
    mentions: Sequence[FindingMention],
    graph: Graph,
    words: Sequence[str],
    tags: Sequence[Tag],
    cuts: Sequence[int],
) -> list[StatedFinding]:
    """The findings with the places that they share: those after a list, and that of what suggests a disorder."""
    modifiers = {part for text in graph["entities"] for part in text.split()}
    modifiers |= {words[n] for tag in tags if tag.kind == WordKind.JOINS for n in range(tag.start, tag.end)}
    place = _NO_PLACE  # sides and zones after the list that is being read, from its end
    for number in range(len(findings) - 2, -1, -1):
        first, second = mentions[number], mentions[number + 1]
        is_list = first.end < second.start and modifiers.issuperset(words[first.end : second.start])
        if not is_list or findings[number].present != findings[number + 1].present:
            place = _NO_PLACE
            continue
        behind = [tag for tag in tags if second.end <= tag.start < cuts[number + 2]]
        place = _place_of(behind) if any(_place_of(behind)) else place
        findings[number] = _fill_place(findings[number], *place)
    at = {mention.text: number for number, mention in enumerate(mentions)}
    for relation in graph["relations"]:
        source, target = at.get(relation["source_entity"]), at.get(relation["target_entity"])
        if relation["type"] == SUGGESTIVE_OF and source is not None and target is not None:
            findings[target] = _fill_place(findings[target], findings[source].sides, findings[source].zones)
    return findings


def _place_of(tags: Sequence[Tag]) -> tuple[frozenset[str], frozenset[str]]:
    """The sides and zones of a part of a statement."""
    return (
        frozenset(side for tag in tags if tag.kind == WordKind.SIDE for side in tag.value.split()),
        frozenset(tag.value for tag in tags if tag.kind == WordKind.ZONE),
    )


def _fill_place(finding: StatedFinding, sides: frozenset[str], zones: frozenset[str]) -> StatedFinding:
    """The finding with these sides and zones if it has none of its own."""
    if finding.sides or finding.zones or finding.name == CARDIOMEGALY:
        return finding
    return finding._replace(sides=sides, zones=_NO_WORDS if finding.is_device else zones)


def _join(statements: Sequence[str], known: dict[str, tuple[StatedFinding, ...]], text: str) -> TextFindings:
    """The reading of a text from the findings of its statements."""
    seen: set[str] = set()
    findings: list[StatedFinding] = []
    repeated = 0
    for statement in statements:
        words = " ".join(re.findall(r"[\w'’-]+", statement.lower()))
        if words in seen:
            repeated += max(1, len(known[statement]))
        else:
            findings += known[statement]
        seen.add(words)
    said = tuple(sentence.lower() for sentence in answered_sentences(text))
    return TextFindings(tuple(merge_findings(findings)), repeated, said)


def merge_findings(findings: Iterable[StatedFinding]) -> list[StatedFinding]:
    """One finding per side for asserted bilateral ones, and one for those that agree: an asserted one takes the
    attributes of both, a denial the wider of both."""
    merged: list[StatedFinding] = []
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


def _agree(first: StatedFinding, second: StatedFinding) -> bool:
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


def _union(first: StatedFinding, second: StatedFinding) -> StatedFinding:
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

"""Annotated sentences in the format of PURE (arXiv 2010.12812): one JSON document per line,

    {"doc_key": "7", "sentences": [["small", "effusion"]], "ner": [[[0, 0, "concept"], [1, 1, "disorder_present"]]],
     "relations": [[[0, 0, 1, 1, "modify"]]]}

with one list of entities and one of relations per sentence. Words are counted through the whole document; the end of an
entity is its last word.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ReXKG.graph import ENTITY_TYPES, RELATION_TYPES
from ReXKG.neural.mentions import Mention, Relation

_FIELDS = ("sentences", "ner", "relations")


@dataclass(frozen=True)
class AnnotatedSentence:
    """The words of a sentence, and its mentions and relations with words counted from its beginning."""

    words: tuple[str, ...]
    mentions: tuple[Mention, ...]
    relations: tuple[Relation, ...]


def read_annotations(path: str | Path) -> list[AnnotatedSentence]:
    """All sentences of a file, in order.

    Raises:
        ValueError: the file cannot be read or is not in the format; the message names file, line and field.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read ({error})") from error
    sentences = [
        sentence
        for number, line in enumerate(lines, 1)
        if line.strip()
        for sentence in _read_document(line, f"{path}, line {number}")
    ]
    if not sentences:
        raise ValueError(f"{path}: holds no sentences; write one JSON document per line")
    return sentences


def document(doc_key: str, sentences: Iterable[AnnotatedSentence]) -> dict[str, Any]:
    """The JSON document of these sentences."""
    fields: dict[str, Any] = {"doc_key": doc_key, "sentences": [], "ner": [], "relations": []}
    offset = 0
    for sentence in sentences:
        fields["sentences"].append(list(sentence.words))
        fields["ner"].append([[*_shifted(mention, offset), mention.label] for mention in sentence.mentions])
        fields["relations"].append(
            [
                [*_shifted(relation.source, offset), *_shifted(relation.target, offset), relation.label]
                for relation in sentence.relations
            ]
        )
        offset += len(sentence.words)
    return fields


def _shifted(mention: Mention, offset: int) -> tuple[int, int]:
    return mention.start + offset, mention.end + offset


def _read_document(line: str, where: str) -> Iterator[AnnotatedSentence]:
    try:
        fields = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not JSON ({error})") from error
    for name in _FIELDS:
        if not isinstance(fields, dict) or not isinstance(fields.get(name), list):
            raise ValueError(f"{where}: field {name!r} is not a list; a document needs {', '.join(_FIELDS)}")
        if len(fields[name]) != len(fields["sentences"]):
            raise ValueError(
                f"{where}: {name} has {len(fields[name])} lists for {len(fields['sentences'])} sentences; give one per"
                " sentence, empty ones included"
            )
    offset = 0
    for i, words in enumerate(fields["sentences"]):
        if not isinstance(words, list) or not all(isinstance(word, str) and word.strip() for word in words):
            raise ValueError(f"{where}: sentences[{i}] is not a list of words")
        inside = range(offset, offset + len(words))
        mentions = _read_mentions(fields["ner"][i], inside, f"{where}: ner[{i}]")
        relations = _read_relations(fields["relations"][i], inside, mentions, f"{where}: relations[{i}]")
        yield AnnotatedSentence(tuple(words), tuple(mentions.values()), tuple(relations))
        offset += len(words)


def _read_mentions(items: Any, inside: range, where: str) -> dict[tuple[int, int], Mention]:
    """(start, end) to mention, counted in the sentence, whose words are number ``inside`` of the document."""
    mentions: dict[tuple[int, int], Mention] = {}
    for place, item in _rows(items, where, "[start, end, type]", 2):
        start, end, label = item
        span = _span(start, end, inside, place)
        if label not in ENTITY_TYPES:
            raise ValueError(f"{place}: type {label!r} is unknown; use one of {', '.join(ENTITY_TYPES)}")
        if span in mentions:
            raise ValueError(f"{place}: words {start} to {end} are listed twice; give each span one type")
        mentions[span] = Mention(*span, label)
    return mentions


def _read_relations(
    items: Any, inside: range, mentions: dict[tuple[int, int], Mention], where: str
) -> Iterator[Relation]:
    pairs = set()
    for place, item in _rows(items, where, "[start, end, start, end, type]", 4):
        *bounds, label = item
        spans = _span(*bounds[:2], inside, place), _span(*bounds[2:], inside, place)
        for span in spans:
            if span not in mentions:
                raise ValueError(f"{place}: words {span[0] + inside.start} to {span[1] + inside.start} are not in ner")
        if label not in RELATION_TYPES:
            raise ValueError(f"{place}: type {label!r} is unknown; use one of {', '.join(RELATION_TYPES)}")
        if spans in pairs or spans[0] == spans[1]:
            raise ValueError(f"{place}: {item} relates a pair twice or an entity to itself; give each pair one type")
        pairs.add(spans)
        yield Relation(mentions[spans[0]], mentions[spans[1]], label)


def _rows(items: Any, where: str, form: str, numbers: int) -> Iterator[tuple[str, list]]:
    """The items of a list with their places; each must be ``numbers`` whole numbers and a type."""
    if not isinstance(items, list):
        raise ValueError(f"{where} is not a list")
    for k, item in enumerate(items):
        place = f"{where}[{k}]"
        fits = (
            isinstance(item, list) and len(item) == numbers + 1 and {type(value) for value in item[:numbers]} == {int}
        )
        if not fits or not isinstance(item[numbers], str):
            raise ValueError(f"{place}: {item!r} is not {form}")
        yield place, item


def _span(start: int, end: int, inside: range, where: str) -> tuple[int, int]:
    if not inside.start <= start <= end < inside.stop:
        raise ValueError(
            f"{where}: words {start} to {end} are not in their sentence, which has {inside.start} to {inside.stop - 1};"
            " count words through the document and give the last word as the end"
        )
    return start - inside.start, end - inside.start

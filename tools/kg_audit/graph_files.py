"""Graph files of the audit tools, resumed after a kill.

    NAME.json            a JSON list of graphs, one per line, in the order of their texts; ``doc_key`` is the position
    NAME.info.json       what NAME.json was made from: digest and names of the texts, extractor, digest of NAME.json
    NAME.partial.jsonl   only while it is made: a header with what it is made from, then one graph per line

NAME.json is renamed into place when its last graph is written. A file counts as made from given texts only if
NAME.info.json says so and NAME.json is still the file that it describes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from tqdm import tqdm

from ReXKG.graph import ENTITY_TYPES, RELATION_TYPES, Graph
from swift.utils.errors import UserError
from swift.utils.files import read_json, replacing, try_read_json, write_json
from swift.utils.json_lines import JsonLinesFile, JsonLinesWriter
from swift.utils.logger import get_logger
from utils.get_knowledge_graph import extract_knowledge_graph, extractor_name

CHUNK = 1024  # texts extracted together; a kill loses at most so many
_FIELDS = {"entities": dict, "relations": list}
_ENDS = ("source_entity", "target_entity", "type")

logger = get_logger()


@dataclass(frozen=True)
class NamedTexts:
    """Texts to make graphs from, each with the name of its origin (a question, a study)."""

    names: list[str]
    texts: list[str]
    source: str  # the file that holds them, for messages and records

    @cached_property
    def digest(self) -> str:
        """SHA-256 of names and texts."""
        digest = hashlib.sha256()
        for pair in zip(self.names, self.texts, strict=True):
            digest.update(json.dumps(pair).encode())
        return digest.hexdigest()

    @property
    def identity(self) -> dict[str, str]:
        """Everything that decides the graphs: the texts, and the extractor in force."""
        return {"texts": self.digest, "extractor": extractor_name()}


def info_path(path: Path) -> Path:
    """The file that records what a graph file was made from."""
    return path.with_suffix(".info.json")


def partial_graphs_path(path: Path) -> Path:
    """The file in which the graphs of a graph file are collected."""
    return path.with_suffix(".partial.jsonl")


def make_graphs(path: Path, texts: NamedTexts, *, resume: bool = True, overwrite: bool = False) -> None:
    """Write the graphs of ``texts`` to ``path``, unless they exist.

    With ``resume`` a file made from the same texts by the same extractor is kept, and an unfinished one is finished.
    Raises UserError if a file made from other texts, or by another extractor, or a damaged one, is in the way, unless
    ``overwrite`` replaces it. Raises UserError if another process makes the same file.
    """
    identity = texts.identity
    if path.exists():
        obstacle = _difference(path, identity)
        if obstacle and not overwrite:
            raise UserError(f"{path} {obstacle}; pass --overwrite to replace it, or another --output_dir")
        if resume and not obstacle:
            logger.info("%s exists already, made from the same %d texts: kept", path, len(texts.texts))
            return
    partial = JsonLinesFile(partial_graphs_path(path), "pass --overwrite to start over, or another --output_dir")
    try:
        keep = _sound_lines(partial, texts)
    except UserError:
        if not overwrite:
            raise
        keep = 0
    with partial.writer(identity, keep=keep if resume else 0) as writer:
        if writer.resumed:
            logger.info("%s holds %d of %d graphs: resuming", partial.path, writer.resumed, len(texts.texts))
        _extract(writer, texts, path.stem)
        _finish(path, partial.path, texts)


def _difference(path: Path, identity: dict[str, str]) -> str | None:
    """The reason why the file at ``path`` is not the one that ``identity`` would give. None if it is that file."""
    info = try_read_json(info_path(path))
    if not info:
        return f"has no readable {info_path(path).name} that says what it was made from"
    if info.get("sha256") != hashlib.sha256(path.read_bytes()).hexdigest():
        return f"is not the file that {info_path(path).name} describes"
    if info.get("extractor") != identity["extractor"]:
        return f"was made by {info.get('extractor')}, now {identity['extractor']} is in force"
    return None if info.get("texts") == identity["texts"] else f"was made from other texts, of {info.get('source')}"


def _sound_lines(partial: JsonLinesFile, texts: NamedTexts) -> int:
    """The number of lines to keep of a file: all before a damaged one. The others are made again.

    Raises UserError if the file was begun for other texts, or its header is damaged.
    """
    damaged: dict[int, str] = {}
    sound = 0
    for line in partial.lines(damaged):
        position = line.number - 2  # after the header
        if line.number == 1 and line.value != texts.identity:
            raise UserError(f"{partial.path} was begun with other texts or another extractor; {partial.remedy}")
        problem = _problem(line.value, position) if position >= 0 else None
        if problem is None and position >= len(texts.texts):
            problem = "more graphs than texts"
        if problem is not None:
            damaged[line.number] = problem
        if damaged:
            break
        sound = line.number
    if 1 in damaged:
        raise partial.damage(1, damaged[1])
    if damaged:
        number, problem = min(damaged.items())
        logger.warning("%s: line %d is damaged (%s); made again from there on", partial.path, number, problem)
    return sound


def _extract(writer: JsonLinesWriter, texts: NamedTexts, name: str) -> None:
    start, total = writer.resumed, len(texts.texts)
    with tqdm(total=total, initial=start, desc=name, unit="text", delay=2, leave=False) as progress:
        for first in range(start, total, CHUNK):
            graphs = extract_knowledge_graph(texts.texts[first : first + CHUNK])
            writer.append(graph | {"doc_key": str(position)} for position, graph in enumerate(graphs, first))
            progress.update(len(graphs))


def _finish(path: Path, partial: Path, texts: NamedTexts) -> None:
    """Turn the lines of ``partial`` into the list at ``path``. The record is written first: no list is without one."""
    digest = hashlib.sha256()
    with replacing(path) as temporary:
        with open(partial, "rb") as lines, open(temporary, "wb") as file:
            next(lines)
            for piece in _as_list(lines):
                digest.update(piece)
                file.write(piece)
        record = {"source": texts.source, "graphs": len(texts.texts), **texts.identity, "sha256": digest.hexdigest()}
        write_json(info_path(path), record | {"names": texts.names})
    partial.unlink()
    logger.info("wrote %d graphs to %s", len(texts.texts), path)


def _as_list(lines: BinaryIO) -> Iterator[bytes]:
    yield b"["
    for number, line in enumerate(lines):
        yield (b",\n" if number else b"\n") + line.rstrip(b"\n")
    yield b"\n]\n"


def read_graphs(path: Path) -> list[Graph]:
    """The graphs of a file, in order. Raises UserError with the graph and field that are wrong."""
    graphs = read_json(path, "make it again with the kg tools", list, what="graph file")
    for position, graph in enumerate(graphs):
        if problem := _problem(graph, position):
            raise UserError(f"graph file {path}, graph {position}: {problem}; make it again")
    return graphs


def _problem(graph: Any, position: int) -> str | None:
    if not isinstance(graph, dict):
        return "it is not an object"
    for field, kind in _FIELDS.items():
        if not isinstance(graph.get(field), kind):
            return f"field '{field}' is missing or of another type"
    if str(graph.get("doc_key", position)) != str(position):
        return f"field 'doc_key' is {graph['doc_key']!r}, so the order is not that of the texts"
    if unknown := set(map(str, graph["entities"].values())) - set(ENTITY_TYPES):
        return f"entity type {min(unknown)!r} is unknown"
    for relation in graph["relations"]:
        if not isinstance(relation, dict) or not all(isinstance(relation.get(end), str) for end in _ENDS):
            return f"a relation lacks one of {', '.join(_ENDS)}"
        if relation["type"] not in RELATION_TYPES:
            return f"relation type {relation['type']!r} is unknown"
    return None


def read_graphs_of(path: Path, names: Sequence[str], texts: NamedTexts | None = None) -> list[Graph]:
    """`read_graphs`, checked to be of the named texts, and of ``texts`` themselves if given.

    A file without a record of its making can only be counted, and a warning says so. Raises UserError.
    """
    graphs = read_graphs(path)
    if len(graphs) != len(names):
        raise UserError(f"graph file {path} has {len(graphs)} graphs for {len(names)} questions; make it for these")
    info = try_read_json(info_path(path))
    if not info:
        logger.warning("%s has no %s: its graphs are taken to be of these questions", path, info_path(path).name)
    elif texts is not None and (difference := _difference(path, texts.identity)):
        raise UserError(f"graph file {path} {difference}; make it from {texts.source}")
    elif info.get("names") != list(names):
        raise UserError(f"graph file {path} was made for other questions; make it for these")
    return graphs

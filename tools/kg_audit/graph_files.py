"""Graph files of the audit tools, and how a run that was cut goes on.

    NAME.json            a JSON list of graphs, one a line, in the order of their texts; ``doc_key`` is the position
    NAME.info.json       what NAME.json was made from: digest and names of the texts, extractor, digest of NAME.json
    NAME.partial.jsonl   only while it is made: what it is made from, then a graph a line

NAME.json is renamed into place when its last graph is written. A file counts as made from given texts only if
NAME.info.json says so and NAME.json is still the one it speaks of.
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
from swift.utils.files import replacing, write_json
from swift.utils.logger import get_logger
from utils.get_knowledge_graph import extract_knowledge_graph, extractor_name

CHUNK = 1024  # texts extracted together, and lost at most when a run is cut
_FIELDS = {"entities": dict, "relations": list}
_ENDS = ("source_entity", "target_entity", "type")

logger = get_logger()


@dataclass(frozen=True)
class NamedTexts:
    """Texts to make graphs of, each with the name of what it comes from (a question, a study)."""

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
        """What decides the graphs: the texts, and the extractor in force."""
        return {"texts": self.digest, "extractor": extractor_name()}


def info_path(path: Path) -> Path:
    """Where a graph file's record lies."""
    return path.with_suffix(".info.json")


def partial_graphs_path(path: Path) -> Path:
    """Where a graph file grows."""
    return path.with_suffix(".partial.jsonl")


def make_graphs(path: Path, texts: NamedTexts, *, resume: bool = True, overwrite: bool = False) -> None:
    """Write the graphs of ``texts`` to ``path``, unless they are there.

    With ``resume`` a file made from the same texts by the same extractor is kept, and one that was begun is gone on
    with. Raises UserError where something made from other texts, or by another extractor, is in the way, unless
    ``overwrite`` replaces it.
    """
    identity, partial = texts.identity, partial_graphs_path(path)
    if path.exists():
        obstacle = _difference(path, identity)
        if obstacle and not overwrite:
            raise UserError(f"{path} {obstacle}; pass --overwrite to replace it, or another --output_dir")
        if resume and not obstacle:
            logger.info("%s is there already, made from the same %d texts: kept", path, len(texts.texts))
            return
    begun = _count_partial(partial, identity) if partial.exists() else 0
    if begun is None and not overwrite:
        raise UserError(
            f"{partial} was begun with other texts or another extractor; pass --overwrite to begin anew, or another "
            "--output_dir"
        )
    done = begun if begun and resume else 0
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(partial, "ab" if done else "wb") as file:
        if done:
            logger.info("%s holds %d of %d graphs: going on from there", partial, done, len(texts.texts))
        else:
            _write_line(file, identity)
        _extract(file, texts, done, path.stem)
    _finish(path, partial, texts)


def _difference(path: Path, identity: dict[str, str]) -> str | None:
    """How the file at ``path`` fails to be the one that ``identity`` would give; None where it is that one."""
    info = _read_info(path)
    if not info:
        return f"has no readable {info_path(path).name} that says what it was made from"
    if info.get("sha256") != hashlib.sha256(path.read_bytes()).hexdigest():
        return f"is not the file that {info_path(path).name} speaks of"
    if info.get("extractor") != identity["extractor"]:
        return f"was made by {info.get('extractor')}, now {identity['extractor']} is in force"
    return None if info.get("texts") == identity["texts"] else f"was made from other texts, of {info.get('source')}"


def _read_info(path: Path) -> dict[str, Any]:
    """The record of a graph file; empty where there is none."""
    try:
        info = json.loads(info_path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return info if isinstance(info, dict) else {}


def _count_partial(partial: Path, identity: dict[str, str]) -> int | None:
    """Graphs in a file that was begun, after cutting off a line that a kill left unfinished; None where it was begun
    for something else."""
    with open(partial, "r+b") as file:
        header = file.readline()
        if not header.endswith(b"\n"):
            return 0
        if header != _line(identity):
            return None
        count, end = 0, file.tell()
        for line in file:
            if not line.endswith(b"\n"):
                file.truncate(end)
                break
            count, end = count + 1, end + len(line)
    return count


def _extract(file: BinaryIO, texts: NamedTexts, start: int, name: str) -> None:
    total = len(texts.texts)
    with tqdm(total=total, initial=start, desc=name, unit="text", delay=2, leave=False) as progress:
        for first in range(start, total, CHUNK):
            graphs = extract_knowledge_graph(texts.texts[first : first + CHUNK])
            for position, graph in enumerate(graphs, first):
                _write_line(file, graph | {"doc_key": str(position)})
            file.flush()
            progress.update(len(graphs))


def _finish(path: Path, partial: Path, texts: NamedTexts) -> None:
    """Turn the lines of ``partial`` into the list at ``path``. The record goes first: no list is without one."""
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


def _write_line(file: BinaryIO, value: Any) -> None:
    file.write(_line(value))


def _line(value: Any) -> bytes:
    # Half a surrogate pair has no UTF-8; as \udxxx it is what JSON writes for it.
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


def read_graphs(path: Path) -> list[Graph]:
    """The graphs of a file, in order. Raises UserError naming the graph and field that is not as it should be."""
    try:
        graphs = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"graph file {path} cannot be read ({error}); make it again") from error
    if not isinstance(graphs, list):
        raise UserError(f"graph file {path} is no JSON list of graphs; pass what the kg tools wrote")
    for position, graph in enumerate(graphs):
        if problem := _problem(graph, position):
            raise UserError(f"graph file {path}, graph {position}: {problem}; make it again")
    return graphs


def _problem(graph: Any, position: int) -> str | None:
    if not isinstance(graph, dict):
        return "it is no object"
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
    """`read_graphs`, checked to be of the named texts, and of ``texts`` themselves where given.

    A file without a record of what it was made from can only be counted; a warning says so. Raises UserError.
    """
    graphs = read_graphs(path)
    if len(graphs) != len(names):
        raise UserError(f"graph file {path} has {len(graphs)} graphs for {len(names)} questions; make it for these")
    info = _read_info(path)
    if not info:
        logger.warning("%s has no %s: its graphs are taken to be of these questions", path, info_path(path).name)
    elif texts is not None and (difference := _difference(path, texts.identity)):
        raise UserError(f"graph file {path} {difference}; make it from {texts.source}")
    elif info.get("names") != list(names):
        raise UserError(f"graph file {path} was made for other questions; make it for these")
    return graphs

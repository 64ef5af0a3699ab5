"""Extraction of knowledge graphs from texts, one graph per text. All other code extracts them through this module.

These environment variables are read once per process, with the first text. The log names the extractor they select.
    REXKG_EXTRACTOR  auto, neural or lexicon; auto takes the neural extractor if its weights are on disk
    REXKG_DIR        the folder of the models run_entity and run_relation (default: utils/test_REXKG)
    REXKG_MARKERS    checkpoint, or published for entity markers as the published inference wrote them
    REXKG_POLARITY   model, or rules: the lexicon's rules decide what the neural extractor's findings assert
    REXKG_TERMS      a lexicon file of the user's own
"""

from __future__ import annotations

import logging
import os
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from ReXKG.findings import FindingReader
from ReXKG.graph import Graph
from ReXKG.lexicon.extractor import LexiconExtractor
from ReXKG.lexicon.mention_polarity import MentionPolarity
from ReXKG.neural.folders import ModelFolders, find_models
from ReXKG.statements import answered_sentences, stating_sentences

if TYPE_CHECKING:
    from ReXKG.neural.extractor import NeuralExtractor

CHOICES = ("auto", "neural", "lexicon")
POLARITIES = ("model", "rules")
PUBLISHED_PLACE = Path(__file__).parent / "test_REXKG"

# A child of the project's logger "chex" writes wherever that does, and the trainer need not be imported.
logger = logging.getLogger("chex.knowledge_graph")


def extract_knowledge_graph(texts: list[str], device: str | None = None) -> list[Graph]:
    """One graph per text, in order: ``{"sentences": str, "entities": {text: type}, "relations": [{"source_entity",
    "target_entity", "type"}], "doc_key": str(position)}``; see `ReXKG.graph` for the types.

    Args:
        texts: any strings. A sentence that occurs several times is read once per process.
        device: the device of a neural extractor (default: the current GPU, or else the CPU). The lexicon extractor
            ignores it.

    Raises:
        ValueError: the environment or a model folder is wrong. The message names the fix.
    """
    return _extractor(device)(texts)


@lru_cache(maxsize=1)
def finding_reader() -> FindingReader:
    """The reader of findings that all rewards of the process share, on the extractor that the environment chooses."""
    return FindingReader(extract_knowledge_graph, _statements)


def _statements(text: str) -> list[str]:
    """The statements of a text, as the extractor of the process needs them."""
    return (stating_sentences if _extractor(None).leaves_out_questions else answered_sentences)(text)


def extractor_name() -> str:
    """The extractor's name for the records of a run: "neural-" and a short hash of its weights, or "lexicon-" and a
    short hash of its vocabulary."""
    return _extractor(None).name


@lru_cache(maxsize=4)
def _extractor(device: str | None) -> LexiconExtractor | NeuralExtractor:
    choice = os.environ.get("REXKG_EXTRACTOR", "auto")
    if choice not in CHOICES:
        raise ValueError(f"REXKG_EXTRACTOR={choice!r} is unknown: use one of {', '.join(CHOICES)}")
    polarity = os.environ.get("REXKG_POLARITY") or "model"
    if polarity not in POLARITIES:
        raise ValueError(f"REXKG_POLARITY={polarity!r} is unknown: use one of {', '.join(POLARITIES)}")
    terms = os.environ.get("REXKG_TERMS") or None
    folders = None if choice == "lexicon" else _find_models(required=choice == "neural")
    if folders:
        # The import is here because it loads torch, which the lexicon extractor does not need.
        from ReXKG.neural.extractor import NeuralExtractor

        markers = os.environ.get("REXKG_MARKERS") or "checkpoint"
        rules = MentionPolarity(terms) if polarity == "rules" else None
        extractor = NeuralExtractor(folders, device, markers, polarity=rules)
        logger.info("knowledge graphs are read by %s from %s", extractor.name, folders.entity.parent)
    else:
        extractor = LexiconExtractor(terms)
        logger.info("knowledge graphs are read by %s", extractor.name)
    return extractor


def _find_models(required: bool) -> ModelFolders | None:
    """The models that the environment names, or else those at the published place; None if there are none and none are
    required. Raises ValueError."""
    named = os.environ.get("REXKG_DIR")
    folders = find_models(named or PUBLISHED_PLACE)
    if folders is None and (named or required):
        place = f"REXKG_DIR={named}" if named else f"REXKG_EXTRACTOR=neural: {PUBLISHED_PLACE}"
        raise ValueError(
            f"{place} holds no run_entity and run_relation with weights; put them there, set REXKG_DIR to their folder,"
            " or set REXKG_EXTRACTOR=lexicon"
        )
    return folders

"""Markers: vocabulary entries before and after the two entities of a relation, which tell their types.

A PURE checkpoint names the entry of each marker in special_tokens.json ({"SUBJ_START=anatomy": "[unused7]", ...}). The
published inference did not read that file and wrote "<subj_start=anatomy>", which becomes [UNK] in a vocabulary without
such entries. There are two conventions. "published" does the same, to make the graphs that the published code made.
"checkpoint" reads the file and, if there is none, falls back to the published markers.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import NamedTuple

from ReXKG.graph import ENTITY_TYPES
from ReXKG.neural.checkpoint import read_model_json
from ReXKG.neural.pieces import WordPieces

CONVENTIONS = ("checkpoint", "published")
FILE = "special_tokens.json"
_ROLES = ("SUBJ_START", "SUBJ_END", "OBJ_START", "OBJ_END")

logger = logging.getLogger("chex.knowledge_graph")


class Markers(NamedTuple):
    """Ids of the markers that an entity of one type gets as source (subject) or target (object)."""

    source_start: int
    source_end: int
    target_start: int
    target_end: int


def read_markers(folder: str | Path, pieces: WordPieces, convention: str = "checkpoint") -> dict[str, Markers]:
    """The markers of every entity type.

    Raises:
        ValueError: the convention is unknown, or special_tokens.json names an entry that the vocabulary lacks.
    """
    if convention not in CONVENTIONS:
        raise ValueError(f"marker convention {convention!r} is unknown: use one of {', '.join(CONVENTIONS)}")
    path = Path(folder) / FILE
    if convention == "checkpoint" and path.is_file():
        names = read_model_json(path)
        missing = sorted({str(entry) for entry in names.values()} - pieces.vocabulary.keys())
        if missing:
            raise ValueError(
                f"{path}: {', '.join(missing[:5])} not in the vocabulary; use the vocab.txt that belongs to this model"
            )
    else:
        names = {name: f"<{name}>".lower() for name in _marker_names()}
    ids = {name: pieces.vocabulary.get(str(names.get(name)), pieces.unknown) for name in _marker_names()}
    if unknown := sum(marker == pieces.unknown for marker in ids.values()):
        reason = "convention published" if convention == "published" else "no or an incomplete special_tokens.json"
        logger.warning("%s: %d of %d entity markers are [UNK] (%s)", folder, unknown, len(ids), reason)
    return {label: Markers(*(ids[f"{role}={label}"] for role in _ROLES)) for label in ENTITY_TYPES}


def write_markers(folder: str | Path, pieces: WordPieces) -> None:
    """Write special_tokens.json for a new model, with markers "[unused1]" and so on in PURE's order.

    Raises:
        ValueError: the vocabulary lacks such an entry.
    """
    names = {name: f"[unused{number}]" for number, name in enumerate(_marker_names(), 1)}
    missing = [entry for entry in names.values() if entry not in pieces.vocabulary]
    if missing:
        raise ValueError(
            f"the encoder's vocabulary lacks {missing[0]}: markers need [unused1] to [unused{len(names)}];"
            " use an encoder whose vocab.txt has them, such as a BERT"
        )
    (Path(folder) / FILE).write_text(json.dumps(names, indent=1) + "\n", encoding="utf-8")


def _marker_names() -> list[str]:
    return [f"{role}={label}" for label in ENTITY_TYPES for role in _ROLES]

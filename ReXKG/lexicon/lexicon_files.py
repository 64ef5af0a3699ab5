"""The files of the vocabulary: `lexicon.tsv`, `cues.tsv`, `contractions.tsv` and lexicon files of the user's own.

Every type, role and cue is checked when a file is read. An error names file and line.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from ReXKG.graph import ANATOMY, CONCEPT, DEVICES_PRESENT, DISORDER_PRESENT, PROCEDURES, SIZE
from ReXKG.lexicon.cues import CUES
from ReXKG.lexicon.items import Item, make_item
from ReXKG.lexicon.roles import NO_ROLE, ROLES

LEXICON_FILE = Path(__file__).parent / "lexicon.tsv"
CUES_FILE = Path(__file__).parent / "cues.tsv"
CONTRACTIONS_FILE = Path(__file__).parent / "contractions.tsv"
SAID_OF = " ... "
# A file names a kind of thing. The sentence says whether it is present.
TERM_LABELS = {
    "anatomy": ANATOMY,
    "concept": CONCEPT,
    "device": DEVICES_PRESENT,
    "disorder": DISORDER_PRESENT,
    "procedures": PROCEDURES,
    "size": SIZE,
    "none": None,
}


class _Row(NamedTuple):
    """A row: its file and line for messages, its first field in lower case, its other fields."""

    place: str
    term: str
    fields: list[str]


def read_terms(path: Path) -> dict[str, tuple[Item, ...]]:
    """Term to the entities that it stands for. "heart ... enlarged" stands for one entity, its last word.

    Raises:
        ValueError: the file cannot be read, or a type or role is unknown; the message names file and line.
    """
    return {row.term: _read_items(row) for row in _read_rows(path, "term<TAB>type<TAB>role (role may be absent)")}


def read_cues(path: Path) -> dict[str, str]:
    """Phrase to cue. Raises ValueError as `read_terms` does."""
    phrases = {}
    for place, phrase, fields in _read_rows(path, "phrase<TAB>cue"):
        _check(fields[0], CUES, f"{place}: cue {fields[0]!r} of {phrase!r}")
        phrases[phrase] = fields[0]
    return phrases


def read_contractions(path: Path) -> dict[str, tuple[str, ...]]:
    """Contraction to its words. Raises ValueError as `read_terms` does."""
    return {row.term: tuple(row.fields[0].split()) for row in _read_rows(path, "contraction<TAB>words")}


def fingerprint(paths: Iterable[Path]) -> str:
    """Eight hexadecimal digits that change with any byte of the files."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:8]


def _read_rows(path: Path, form: str) -> Iterator[_Row]:
    """The rows that are neither blank nor a comment."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path}: cannot read this lexicon ({error}); give a UTF-8 file of tab-separated rows"
        ) from error
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        place = f"{path}, line {number}"
        term, *fields = [field.strip() for field in line.split("\t")]
        if not fields or not term:
            problem = "begins with a tab" if fields else "has no tab"
            raise ValueError(f"{place}: {line!r} {problem}; write {form}")
        yield _Row(place, term.lower(), fields)


def _read_items(row: _Row) -> tuple[Item, ...]:
    """The entities of a row of terms."""
    place, term, fields = row
    texts, types = term.split(SAID_OF)[-1].split("+"), fields[0].split("+")
    roles = (fields[1] if len(fields) > 1 else NO_ROLE).split("+")
    roles += [NO_ROLE] * (len(texts) - len(roles))
    if len(texts) != len(types):
        raise ValueError(f"{place}: {term!r} has {len(texts)} parts but {len(types)} types; give one type per part")
    for kind in types:
        _check(kind, TERM_LABELS, f"{place}: type {kind!r} of {term!r}")
    for role in filter(None, roles):
        _check(role, ROLES, f"{place}: role {role!r} of {term!r}", " or none")
    return tuple(
        make_item(text.strip(), TERM_LABELS[kind], role) for text, kind, role in zip(texts, types, roles, strict=True)
    )


def _check(name: str, known: Collection[str], subject: str, otherwise: str = "") -> None:
    if name not in known:
        raise ValueError(f"{subject} is unknown; use one of {', '.join(known)}{otherwise}")

"""The vocabulary of the lexicon extractor: what a word or phrase is.

`lexicon.tsv` lists entities (term, type, role) and `cues.tsv` the words that steer reading (phrase, cue). A term with
blanks is one entity; one with plus signs is several that take their types from each other's company
("degenerative+changes" is concept+disorder, while "changes" alone is a concept). Words in neither file are understood
by four named rules: `_unwrapped`, `_inflected`, `_hyphenated`, `_by_ending`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from ReXKG.graph import ANATOMY, CONCEPT, DEVICES_PRESENT, DISORDER_PRESENT, PROCEDURES, SIZE
from ReXKG.items import GAP, NUMBER, Item, entity
from ReXKG.text import tokenize

HERE = Path(__file__).parent
# The file names a kind of thing; whether it is present is for the sentence to say.
LABELS = {
    "anatomy": ANATOMY,
    "concept": CONCEPT,
    "device": DEVICES_PRESENT,
    "disorder": DISORDER_PRESENT,
    "procedures": PROCEDURES,
    "size": SIZE,
    "none": None,
}
ROLES = ("", "side", "degree", "course", "event", "noun", "outline")
_NOUN_LABELS = frozenset({ANATOMY, DISORDER_PRESENT, DEVICES_PRESENT, PROCEDURES})

LONGEST_WORD = 40
UNITS = frozenset({"cm", "mm", "cc", "ml", "centimeter", "centimeters", "millimeter", "millimeters"})
_NUMBER = re.compile(r"\d+(?:\.\d+)?(?:-\d+(?:\.\d+)?)?")
_MEASURE = re.compile(r"\d+(?:\.\d+)?(?:-\d+(?:\.\d+)?)?-?(?:cm|mm|cc|ml)")
_WRAPPING = "\"'`“”‘’*_#[]{}<>|~=+-–—;•·%&"

_ENDINGS = (
    (re.compile(r"\w{3,}(?:ectomy|otomy|plasty|scopy|centesis|odesis|orrhaphy|graphy)"), PROCEDURES),
    (re.compile(r"\w{3,}(?:itis|iasis|ectas(?:is|ia)|megaly|malacia|penia|pathy|thorax|emia|omas?)"), DISORDER_PRESENT),
    (re.compile(r"(?:peri|para|retro|supra|infra|sub|intra|inter|trans|epi|costo|broncho)\w{4,}(?:al|ar|ic)"), ANATOMY),
    (re.compile(r"(?:post|pre)(?:op|surg|procedur|radiat|traumat)\w*"), CONCEPT),
)  # fmt: skip


class Entry(NamedTuple):
    """What the vocabulary knows of a word: the item it is alone (`GAP`: nothing), and the phrases that it begins, the
    longest first, each as (words that must follow, items that the phrase stands for)."""

    item: Item
    phrases: tuple[tuple[list[str], tuple[Item, ...]], ...] = ()


NOTHING = Entry(GAP)


class Vocabulary:
    """Words and phrases with their entries. ``extra`` is a lexicon file of the user's, read after the project's own and
    overriding it term by term. Raises ValueError naming the file and line of a row that is not understood."""

    def __init__(self, extra: str | Path | None = None) -> None:
        files = [HERE / "lexicon.tsv", *([Path(extra)] if extra else [])]
        terms = {term: (path, number, rest) for path in files for number, term, *rest in _rows(path)}
        cues = {phrase: rest[0] for _, phrase, *rest in _rows(HERE / "cues.tsv")}
        self.fingerprint = _fingerprint([*files, HERE / "cues.tsv"])
        self.table = _build_table(terms, cues)
        self._guess = lru_cache(maxsize=65536)(self._guess_uncached)

    def guess(self, word: str) -> Entry:
        """The entry of a lower-cased word that is not in the table; `NOTHING` where no rule understands it."""
        return self._guess(word) if len(word) <= LONGEST_WORD else NOTHING

    def _guess_uncached(self, word: str) -> Entry:
        if word[0].isdigit():
            if _NUMBER.fullmatch(word):
                return Entry(NUMBER)
            if _MEASURE.fullmatch(word):
                return Entry(entity(word, SIZE))
        for rule in (self._unwrapped, self._inflected, self._hyphenated, self._by_ending):
            found = rule(word)
            if found is not None:
                return found
        return NOTHING

    def _unwrapped(self, word: str) -> Entry | None:
        """Quotes, bullets and brackets around a word are not part of it; a semicolon after it ends the clause."""
        core = word.strip(_WRAPPING)
        if core == word:
            return None
        item = (self.table.get(core) or self.guess(core)).item if core else GAP
        if ";" not in word[-3:]:
            return Entry(item)
        return Entry(item, (([], (item, entity(";", None, cue="breaks"))),))

    def _inflected(self, word: str) -> Entry | None:
        """A plural or possessive of a known noun is what its singular is."""
        for ending, singular in (("'s", ""), ("’s", ""), ("ies", "y"), ("es", "is"), ("es", ""), ("s", "")):
            if word.endswith(ending):
                known = self.table.get(word.removesuffix(ending) + singular)
                if known and known.item.label in _NOUN_LABELS:
                    return Entry(known.item._replace(text=word))
        return None

    def _hyphenated(self, word: str) -> Entry | None:
        """Without its hyphens a known word; else the device or disorder that it ends in; else, with any known part, a
        concept ("left-predominant")."""
        parts = re.split("[-–—]", word)
        if len(parts) < 2:
            return None
        joined = self.table.get("".join(parts))
        if joined and joined.item.label:
            return Entry(joined.item._replace(text=word, cue=None))
        known = [entry.item for part in parts if (entry := self.table.get(part)) and entry.item.label]
        if not known:
            return None
        last = self.table.get(parts[-1])
        if last and last.item.label in (DEVICES_PRESENT, DISORDER_PRESENT):
            return Entry(last.item._replace(text=word, cue=None))
        return Entry(entity(word, CONCEPT))

    def _by_ending(self, word: str) -> Entry | None:
        """Greek and Latin build transparent words: -ectomy is a procedure, -itis a disorder, peri-...-al a place."""
        for pattern, label in _ENDINGS:
            if pattern.fullmatch(word):
                return Entry(entity(word, label))
        return None


def _rows(path: Path) -> Iterable[tuple]:
    """(line number, first field lower-cased, other fields...) of each row that is neither blank nor a comment."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path}: cannot read this lexicon ({error}); give a UTF-8 file of tab-separated rows"
        ) from error
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        fields = [field.strip() for field in line.split("\t")]
        if len(fields) < 2 or not fields[0]:
            problem = "begins with a tab" if len(fields) > 1 else "has no tab"
            raise ValueError(
                f"{path}, line {number}: {line!r} {problem}; write term<TAB>type<TAB>role (role may be absent)"
            )
        yield (number, fields[0].lower(), *fields[1:])


def _fingerprint(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:8]


def _build_table(terms: dict[str, tuple], cues: dict[str, str]) -> dict[str, Entry]:
    """Word to entry. Single words first, so that a phrase can say which of its words are entities too."""
    single: dict[str, Item] = {}
    phrases: dict[str, list[tuple[list[str], tuple[Item, ...]]]] = {}
    long_terms: list[tuple[list[str], tuple[Item, ...]]] = []
    for term, (path, number, fields) in terms.items():
        items = _term_items(term, fields, f"{path}, line {number}")
        words = [word for item in items for word in tokenize(item.text)]
        if len(words) == 1:
            single[words[0]] = items[0]
        else:
            long_terms.append((words, items))
    for phrase, cue in cues.items():
        words = tokenize(phrase)
        if len(words) == 1:
            single[words[0]] = single.get(words[0], entity(words[0], None))._replace(cue=cue)
    for phrase, cue in cues.items():
        words = tokenize(phrase)
        if len(words) > 1:
            entities = [single[word]._replace(cue=None) for word in words if word in single and single[word].label]
            long_terms.append((words, (*entities, entity(phrase, None, cue=cue))))
    for words, items in long_terms:
        phrases.setdefault(words[0], []).append((words[1:], items))
    return {
        word: Entry(
            item if (item := single.get(word)) and (item.label or item.cue) else GAP,
            tuple(sorted(phrases.get(word, ()), key=lambda phrase: -len(phrase[0]))),
        )
        for word in {*single, *phrases}
    }


def _term_items(term: str, fields: list[str], where: str) -> tuple[Item, ...]:
    """The entities that one row of a lexicon file stands for."""
    texts, kinds = term.split("+"), fields[0].split("+")
    roles = (fields[1] if len(fields) > 1 else "").split("+")
    roles += [""] * (len(texts) - len(roles))
    if len(texts) != len(kinds):
        raise ValueError(f"{where}: {term!r} has {len(texts)} parts but {len(kinds)} types; give one type a part")
    for kind in kinds:
        if kind not in LABELS:
            raise ValueError(f"{where}: type {kind!r} of {term!r} is unknown; use one of {', '.join(LABELS)}")
    for role in roles:
        if role not in ROLES:
            raise ValueError(
                f"{where}: role {role!r} of {term!r} is unknown; use one of {', '.join(ROLES[1:])} or none"
            )
    return tuple(entity(t.strip(), LABELS[k], r) for t, k, r in zip(texts, kinds, roles, strict=True))

"""The vocabulary of the lexicon extractor: what a word or phrase is.

`lexicon.tsv` lists entities (term, type, role) and `cues.tsv` the words that steer reading (phrase, cue). A term with
blanks is one entity; one with plus signs is several that take their types from each other's company
("degenerative+changes" is concept+disorder, while "changes" alone is a concept); one with dots is a state that takes
its type from what it is said of ("heart ... enlarged" is a disorder, while "enlarged" alone is a concept). Words in
neither file are understood by five named rules: `_unwrapped`, `_inflected`, `_hyphenated`, `_prefixed`, `_by_ending`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from ReXKG.graph import ANATOMY, CONCEPT, DEVICES_PRESENT, DISORDER_PRESENT, PROCEDURES, SIZE
from ReXKG.lexicon.items import GAP, NUMBER, Item, entity
from ReXKG.text import tokenize

HERE = Path(__file__).parent
# The file names a kind of thing; whether it is present is for the sentence to say.
TERM_LABELS = {
    "anatomy": ANATOMY,
    "concept": CONCEPT,
    "device": DEVICES_PRESENT,
    "disorder": DISORDER_PRESENT,
    "procedures": PROCEDURES,
    "size": SIZE,
    "none": None,
}
TERM_ROLES = ("", "side", "degree", "course", "event", "noun", "outline", "finding", "state")
_NOUN_LABELS = frozenset({ANATOMY, DISORDER_PRESENT, DEVICES_PRESENT, PROCEDURES})

LONGEST_WORD = 40
_SAID_OF = " ... "
UNITS = frozenset({"cm", "mm", "cc", "ml", "centimeter", "centimeters", "millimeter", "millimeters"})
_NUMBER = re.compile(r"\d+(?:\.\d+)?(?:-\d+(?:\.\d+)?)?")
_MEASURE = re.compile(r"\d+(?:\.\d+)?(?:-\d+(?:\.\d+)?)?-?(?:cm|mm|cc|ml)")
_WRAPPING = "\"'`“”‘’*_#[]{}<>|~=+-–—;•·%&"

_ENDINGS = (
    (re.compile(r"\w{3,}(?:ectomy|otomy|plasty|scopy|centesis|odesis|orrhaphy|graphy|ogram)"), PROCEDURES),
    (
        re.compile(
            r"\w{3,}"
            r"(?:itis|osis|iasis|ectas(?:is|ia)|megaly|malacia|penia|pathy|pnea|cele|thorax|mediastinum|emia|omas?)"
        ),
        DISORDER_PRESENT,
    ),
    (
        re.compile(
            r"post-?\w{5,}|pre-?(?:op|surg|procedur)\w*|\w{4,}ous|[\w-]+-(?:appearing|based|like|related|sided)"
        ),
        CONCEPT,
    ),
    (
        re.compile(
            r"(?:peri|para|retro|supra|infra|sub|intra|inter|trans|pre|epi|juxta|acromio|aorto|atrio|broncho|cardio|cervico"
            r"|costo|esophago|gastro|gleno|lumbo|pleuro|pulmo|scapulo|sterno|thoraco|tracheo|ventriculo)\w{4,}(?:al|ar|ic)"
        ),
        ANATOMY,
    ),
)
_PREFIXED = re.compile(
    r"(?:bi|extra|hemi|hemo|hydro|hyper|hypo|infra|inter|intra|macro|micro|mid|multi|non|over|para|peri|pneumo|pre|pseudo"
    r"|re|retro|sub|supra|trans|un|under)-?(\w{5,})"
)


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
        said = {term: terms.pop(term) for term in list(terms) if _SAID_OF in term}
        self.said_of = {tuple(term.split(_SAID_OF)): _said_item(term, *where) for term, where in said.items()}
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
        for rule in (self._unwrapped, self._inflected, self._hyphenated, self._prefixed, self._by_ending):
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
        """A plural or possessive of a known noun is what its singular is; an adverb of a known concept is one."""
        for ending, singular in (("'s", ""), ("’s", ""), ("ies", "y"), ("es", "is"), ("es", ""), ("s", "")):
            if word.endswith(ending):
                known = self.table.get(word.removesuffix(ending) + singular)
                if known and known.item.label in _NOUN_LABELS:
                    return Entry(known.item._replace(text=word))
        for ending in ("ly", "ally"):
            known = self.table.get(word.removesuffix(ending)) if word.endswith(ending) else None
            if known and known.item.label == CONCEPT:
                return Entry(entity(word, CONCEPT, "degree"))
        return None

    def _hyphenated(self, word: str) -> Entry | None:
        """Without its hyphens a known word; else the device or disorder that it ends in; else what all its parts are;
        else, with any known part, a concept ("left-predominant")."""
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
        labels = {item.label for item in known} if len(known) == len(parts) else set()
        return Entry(entity(word, labels.pop() if len(labels) == 1 else CONCEPT))

    def _prefixed(self, word: str) -> Entry | None:
        """A prefix leaves a known word what it is ("midesophagus", "reaeration", "nonaerated")."""
        match = _PREFIXED.fullmatch(word)
        known = self.table.get(match[1]) if match else None
        if known is None or known.item.label is None:
            return None
        return Entry(known.item._replace(text=word, cue=None))

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
    long_terms: dict[tuple[str, ...], tuple[Item, ...]] = {}
    for term, (path, number, fields) in terms.items():
        items = _term_items(term, fields, f"{path}, line {number}")
        words = [word for item in items for word in tokenize(item.text)]
        if len(words) == 1:
            single[words[0]] = items[0]
        else:
            long_terms[tuple(words)] = items
    for phrase, cue in cues.items():
        words = tokenize(phrase)
        if len(words) == 1:
            single[words[0]] = single.get(words[0], entity(words[0], None))._replace(cue=cue)
    for phrase, cue in cues.items():
        words = tokenize(phrase)
        if len(words) > 1:
            plain = [single[word]._replace(cue=None) for word in words if word in single and single[word].label]
            entities, steering = long_terms.get(tuple(words), plain), entity(phrase, None, cue=cue)
            # What breaks a clause begins the next one.
            long_terms[tuple(words)] = (steering, *entities) if cue == "breaks" else (*entities, steering)
    phrases: dict[str, list[tuple[list[str], tuple[Item, ...]]]] = {}
    for (first, *rest), items in long_terms.items():
        phrases.setdefault(first, []).append((rest, items))
    return {
        word: Entry(
            item if (item := single.get(word)) and (item.label or item.cue) else GAP,
            tuple(sorted(phrases.get(word, ()), key=lambda phrase: -len(phrase[0]))),
        )
        for word in {*single, *phrases}
    }


def _said_item(term: str, path: Path, number: int, fields: list[str]) -> Item:
    """The entity that the last word of "heart ... enlarged" is."""
    return _term_items(term.split(_SAID_OF)[1], fields, f"{path}, line {number}")[0]


def _term_items(term: str, fields: list[str], where: str) -> tuple[Item, ...]:
    """The entities that one row of a lexicon file stands for."""
    texts, kinds = term.split("+"), fields[0].split("+")
    roles = (fields[1] if len(fields) > 1 else "").split("+")
    roles += [""] * (len(texts) - len(roles))
    if len(texts) != len(kinds):
        raise ValueError(f"{where}: {term!r} has {len(texts)} parts but {len(kinds)} types; give one type a part")
    for kind in kinds:
        if kind not in TERM_LABELS:
            raise ValueError(f"{where}: type {kind!r} of {term!r} is unknown; use one of {', '.join(TERM_LABELS)}")
    for role in roles:
        if role not in TERM_ROLES:
            raise ValueError(
                f"{where}: role {role!r} of {term!r} is unknown; use one of {', '.join(TERM_ROLES[1:])} or none"
            )
    return tuple(entity(t.strip(), TERM_LABELS[k], r) for t, k, r in zip(texts, kinds, roles, strict=True))

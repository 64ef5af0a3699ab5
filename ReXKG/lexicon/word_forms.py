"""Words that no file lists, understood by their form.

`WordForms.guess` first tries measures, then five rules in this order; the first that understands the word wins:
`unwrapped` ("“effusion”"), `inflected` ("consolidations"), `hyphenated` ("left-predominant"), `prefixed`
("nonaerated"), `by_ending` ("bilobectomy").
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

from ReXKG.graph import ANATOMY, CONCEPT, DEVICES_PRESENT, DISORDER_PRESENT, PROCEDURES, SIZE
from ReXKG.lexicon import roles
from ReXKG.lexicon.items import GAP, NOTHING, NUMBER, Entry, Item, make_item

# Measures: numbers with a unit, such as "3 cm", "2.5 x 3 cm" and "12mm".
UNITS = frozenset({"cm", "mm", "cc", "ml", "centimeter", "centimeters", "millimeter", "millimeters"})
_NUMBER = r"\d+(?:\.\d+)?(?:-\d+(?:\.\d+)?)?"
is_number = re.compile(_NUMBER).fullmatch
is_measure = re.compile(rf"{_NUMBER}-?(?:cm|mm|cc|ml)").fullmatch
_BETWEEN_NUMBERS = frozenset({"x", "×", "by", "to", "-", "–"})
_LONGEST_MEASURE = 12

LONGEST_WORD = 40
CACHED_FORMS = 65_536
_NOUN_LABELS = frozenset({ANATOMY, DISORDER_PRESENT, DEVICES_PRESENT, PROCEDURES})
_WRAPPING = "\"'`“”‘’*_#[]{}<>|~=+-–—;•·%&"

# (ending of a plural or possessive, ending of its singular)
_POSSESSIVES = ("'s", "’s")
_PLURALS = (("'s", ""), ("’s", ""), ("ies", "y"), ("es", "is"), ("es", ""), ("s", ""))
_ADVERBS = ("ly", "ally")

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


class WordForms:
    """Entries of words that are not in ``table`` (word to entry); its answers are cached."""

    def __init__(self, table: Mapping[str, Entry]) -> None:
        self._table = table
        self._rules = (self.unwrapped, self.inflected, self.hyphenated, self.prefixed, self.by_ending)
        self._cached = lru_cache(maxsize=CACHED_FORMS)(self._apply_rules)

    def guess(self, word: str) -> Entry:
        """The entry of a lower-cased word; `NOTHING` if no rule understands it or it is very long."""
        return self._cached(word) if len(word) <= LONGEST_WORD else NOTHING

    def _apply_rules(self, word: str) -> Entry:
        if is_number(word):
            return Entry(NUMBER)
        if is_measure(word):
            return Entry(make_item(word, SIZE))
        for rule in self._rules:
            entry = rule(word)
            if entry is not None:
                return entry
        return NOTHING

    def unwrapped(self, word: str) -> Entry | None:
        """Quotes, bullets and brackets around a word are not part of it."""
        core = word.strip(_WRAPPING)
        if core == word:
            return None
        return Entry((self._table.get(core) or self.guess(core)).item if core else GAP)

    def inflected(self, word: str) -> Entry | None:
        """A plural of a known noun is what its singular is, and "the effusion's" is the effusion. An adverb of a known
        concept is a degree."""
        for ending, singular in _PLURALS:
            if word.endswith(ending):
                known = self._known(word.removesuffix(ending) + singular)
                if known and known.label in _NOUN_LABELS:
                    return Entry(known if ending in _POSSESSIVES else known._replace(text=word))
        for ending in _ADVERBS:
            known = self._known(word.removesuffix(ending)) if word.endswith(ending) else None
            if known and known.label == CONCEPT:
                return Entry(make_item(word, CONCEPT, roles.DEGREE))
        return None

    def hyphenated(self, word: str) -> Entry | None:
        """A hyphenated word is the known word without its hyphens ("air-space"), else the device or disorder that it
        ends in ("hydro-pneumothorax"), else of the type that all its parts have ("t4-t5"), else, if any part is known,
        a concept ("left-predominant")."""
        parts = re.split("[-–—]", word)
        if len(parts) < 2:
            return None
        joined = self._known("".join(parts))
        if joined:
            return Entry(joined._replace(text=word, cue=None))
        known = [item for part in parts if (item := self._known(part))]
        if not known:
            return None
        last = self._known(parts[-1])
        if last and last.label in (DEVICES_PRESENT, DISORDER_PRESENT):
            return Entry(last._replace(text=word, cue=None))
        labels = {item.label for item in known} if len(known) == len(parts) else set()
        return Entry(make_item(word, labels.pop() if len(labels) == 1 else CONCEPT))

    def prefixed(self, word: str) -> Entry | None:
        """A prefix leaves a known word what it is ("midesophagus", "reaeration", "nonaerated"). "Non" before a disorder
        makes a concept ("nonobstructive")."""
        match = _PREFIXED.fullmatch(word)
        known = self._known(match[1]) if match else None
        if known is None:
            return None
        if word.startswith("non") and known.label == DISORDER_PRESENT:
            return Entry(make_item(word, CONCEPT))
        return Entry(known._replace(text=word, cue=None))

    def by_ending(self, word: str) -> Entry | None:
        """Greek and Latin build transparent words: -ectomy is a procedure, -itis a disorder, peri-...-al a place."""
        for pattern, label in _ENDINGS:
            if pattern.fullmatch(word):
                return Entry(make_item(word, label))
        return None

    def _known(self, word: str) -> Item | None:
        """The entity that the table has for a word."""
        entry = self._table.get(word)
        return entry.item if entry and entry.item.label else None


def end_of_measure(words: Sequence[str], start: int) -> int | None:
    """The position after a measure that begins at word ``start`` ("3 cm", "2.5 x 3 cm", "3 cm x 4 cm"); None without a
    unit."""
    end = None
    wants_number = True
    for position in range(start, min(len(words), start + _LONGEST_MEASURE)):
        word = words[position]
        if wants_number:
            if not is_number(word):
                break
            wants_number = False
        elif word in UNITS:
            end = position + 1
        elif word in _BETWEEN_NUMBERS:
            wants_number = True
        else:
            break
    return end

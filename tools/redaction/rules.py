"""Rules that let numbers and fixed words pass, put pseudonyms in place of names, and leave out everything else.

A rule is called with a value, the name of its field, and the `Notes` of a file. It returns the value that may be
shared, or `DROP`. Nothing passes that no rule names.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tools.redaction.names import Pseudonyms

DROP = object()
LARGEST_NUMBER = 10**15  # beyond it, digits could be a text
IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,39}")
_NUMBER = re.compile(r"[+-]?\d{1,15}(?:\.\d{1,12})?(?:e[+-]?\d{1,3})?", re.IGNORECASE)
# Kinds of patient data by field. Fields that are not listed hold what nobody knows.
FIELD_KINDS = {
    **dict.fromkeys(
        (
            "question", "answer", "explanation", "solution", "prompt", "completion", "generated_text", "given_text",
            "generated_tokens", "given_tokens", "raw_completion_tokens", "token_ids", "token_alternatives",
            "majority_answer", "prompt_example", "messages", "sentences", "entities", "relations", "by_answer",
            "hallucinated", "omitted", "examples", "records", "notes", "reason", "system", "response_prefix",
            "semantic_type", "content_type", "question_type", "text", "samples",
        ),
        "texts",
    ),
    **dict.fromkeys(
        (
            "image_paths", "image_path", "image_name", "images", "image", "annotation_file", "command", "arguments",
            "model", "ref_model", "base_model", "dataset", "val_dataset", "output_dir", "image_root", "log", "folder",
            "external_plugins", "host", "source", "checkpoint", "tag", "files", "file", "model_path", "result",
            "base_model_name_or_path", "best_model_checkpoint", "name", "runs", "results", "started", "trace", "data",
        ),
        "names",
    ),
    **dict.fromkeys(
        ("subject_id", "study_id", "idx", "id", "group", "image_ids", "image_id", "doc_key", "names", "settings",
         "contents", "data_sha256", "questions"),
        "identifiers",
    ),
}  # fmt: skip
UNKNOWN_DATA = "unknown"


@dataclass
class Notes:
    """The pseudonyms of a copy, and the values of one file that did not pass, counted by field."""

    names: Pseudonyms
    withheld: Counter[str] = field(default_factory=Counter)

    def withhold(self, name: str, value: Any = None) -> Any:
        """Count a value that does not pass as it is, unless it says nothing. Returns ``DROP``."""
        if value not in (None, "", [], {}):
            self.withheld[name] += 1
        return DROP


SharingRule = Callable[[Any, str, Notes], Any]


def number(value: Any, name: str, notes: Notes) -> Any:
    """A number, true, false or null."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int) and abs(value) < LARGEST_NUMBER:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return notes.withhold(name, value)


def numbers(value: Any, name: str, notes: Notes) -> Any:
    """A number, or nested lists of numbers."""
    return each(numbers)(value, name, notes) if isinstance(value, list) else number(value, name, notes)


def number_text(value: Any, name: str, notes: Notes) -> Any:
    """A number, or the text of one, as a command line has it."""
    passes = isinstance(value, str) and _NUMBER.fullmatch(value)
    return value if passes else number(value, name, notes)


def words(*choices: str) -> SharingRule:
    """One of ``choices``."""

    def rule(value: Any, name: str, notes: Notes) -> Any:
        passes = value is None or (isinstance(value, str) and value in choices)
        return value if passes else notes.withhold(name, value)

    rule.words = choices
    return rule


def matching(pattern: str, *known: str) -> SharingRule:
    """A text of which nothing but the form is free, such as a version. ``known`` are words of this form."""
    form = re.compile(pattern)

    def rule(value: Any, name: str, notes: Notes) -> Any:
        passes = value is None or (isinstance(value, str) and form.fullmatch(value))
        return value if passes else notes.withhold(name, value)

    rule.words = known
    return rule


def identifiers(value: Any, name: str, notes: Notes) -> Any:
    """Names of rewards, in a list or in a text with blanks between them: names of code."""
    parts = value.split(" ") if isinstance(value, str) else value
    passes = isinstance(parts, list) and all(isinstance(part, str) and IDENTIFIER.fullmatch(part) for part in parts)
    return value if passes else notes.withhold(name, value)


def pseudonym(kind: str, *known: str) -> SharingRule:
    """A pseudonym of the value; null and the ``known`` words stay."""

    def rule(value: Any, name: str, notes: Notes) -> Any:
        if value is None or (isinstance(value, str) and value in known):
            return value
        notes.withhold(name, value)
        if isinstance(value, list):
            return [rule(item, name, notes) for item in value]
        return notes.names.of(kind, json.dumps(value, sort_keys=True) if isinstance(value, dict) else value)

    rule.words = known
    return rule


def each(item: SharingRule) -> SharingRule:
    """A list of values that pass ``item``. Others are left out of it."""

    def rule(value: Any, name: str, notes: Notes) -> Any:
        if not isinstance(value, list):
            return notes.withhold(name, value)
        passed = (item(entry, name, notes) for entry in value)
        return [entry for entry in passed if entry is not DROP]

    rule.parts = (item,)
    return rule


def record(**fields: SharingRule) -> SharingRule:
    """An object with ``fields``. Other fields are left out. A trailing underscore of a name is not part of it."""
    rules = {name.removesuffix("_"): rule for name, rule in fields.items()}

    def rule(value: Any, name: str, notes: Notes) -> Any:
        if not isinstance(value, Mapping):
            return notes.withhold(name, value)
        passed = {
            own: rules[own](entry, own, notes) if own in rules else notes.withhold(_field_name(own), entry)
            for own, entry in value.items()
        }
        return {own: entry for own, entry in passed.items() if entry is not DROP}

    rule.parts, rule.words = tuple(rules.values()), tuple(rules)
    return rule


def keyed(key: SharingRule, item: SharingRule) -> SharingRule:
    """An object whose keys are values of their own, which pass ``key``."""

    def rule(value: Any, name: str, notes: Notes) -> Any:
        if not isinstance(value, Mapping):
            return notes.withhold(name, value)
        passed = {key(own, name, notes): item(entry, name, notes) for own, entry in value.items()}
        return {own: entry for own, entry in passed.items() if DROP not in (own, entry)}

    rule.parts = (key, item)
    return rule


def made_of(*parts: SharingRule) -> Callable[[SharingRule], SharingRule]:
    """Decorator of a rule that is a function of its own and uses the rules ``parts``."""

    def decorate(rule: SharingRule) -> SharingRule:
        rule.parts = parts
        return rule

    return decorate


def format_words(rule: SharingRule) -> set[str]:
    """All fixed words that a rule and its parts know: names of fields, and words of values."""
    found = set(getattr(rule, "words", ()))
    return found.union(*map(format_words, getattr(rule, "parts", ())))


def _field_name(own: str) -> str:
    """The name of a field that no rule knows, for lists. A name that is not one word may be a text of the data."""
    return own if IDENTIFIER.fullmatch(own) else UNKNOWN_DATA

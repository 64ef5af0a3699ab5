"""Rewriting of sentences in the English of reports: paraphrases, which change no fact, and flips, which change one."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ReXKG.text import split_sentences

_NO = re.compile(r"^(?:there (?:is|are) )?(?:no evidence of|no) ", re.IGNORECASE)
_THERE = re.compile(r"^there (?:is|are) (?:an? )?", re.IGNORECASE)
_SEEN = re.compile(r"^(?:an? |the )?(.+?) (?:is|are) (?:seen|present|noted|visible|in place)\b", re.IGNORECASE)
_CHANGED = re.compile(
    r"^the (.+?) (?:is|are|has|have|was|were) (?:been )?"
    r"(?:new|stable|unchanged|increased|decreased|resolved|placed|removed)\b.*$",
    re.IGNORECASE,
)
_NORMAL_HEART = re.compile(r"\b(?:heart|cardiac silhouette)\b.*\bnormal\b", re.IGNORECASE)
_LARGE_HEART = re.compile(r"\bheart is enlarged\b", re.IGNORECASE)
_CLEAR = re.compile(r"\b(is|are) clear\b", re.IGNORECASE)
_OPPOSITES = {
    "side": {"left": "right", "right": "left"},
    "severity": {
        "small": "large", "mild": "severe", "mildly": "severely", "moderate": "severe", "large": "small",
        "severe": "mild", "severely": "mildly", "tiny": "large", "minimal": "severe", "marked": "mild",
    },
    "course": {
        "increased": "decreased", "decreased": "increased", "stable": "increased", "unchanged": "decreased",
        "new": "stable", "worsened": "improved", "improved": "worsened", "resolved": "increased", "placed": "removed",
        "removed": "placed",
    },
}  # fmt: skip
FLIPS = ("polarity", *_OPPOSITES)
# The same fact in other words. Only one of a pair occurs in a sentence.
_SYNONYMS = (
    (r"\bleft(?= pleural effusion| pneumothorax| consolidation| nodule)", "left-sided"),
    (r"\bright(?= pleural effusion| pneumothorax| consolidation| nodule)", "right-sided"),
    (r"\bmild\b", "slight"),
    (r"\bsevere\b", "marked"),
    (r"\b(is|are) stable\b", r"\1 unchanged"),
    (r"\bhas increased\b", "has worsened"),
    (r"\bhas decreased\b", "has improved"),
    (r"\bhas resolved\b", "has cleared"),
    (r"\b(is|are) clear\b", r"\1 unremarkable"),
    (r"\bheart size is normal\b", "heart is normal in size"),
    (r"\bat the (left|right) lung base\b", r"at the base of the \1 lung"),
    (r"\bno evidence of\b", "no sign of"),
)


def sentences_of(text: str) -> list[str]:
    """The sentences of a text without their final dots and the blanks around them."""
    return [sentence.strip() for sentence in split_sentences(text) if sentence.strip()]


def join_sentences(sentences: Sequence[str]) -> str:
    """Sentences as a text, each with a capital letter and a dot."""
    return " ".join(f"{sentence[0].upper()}{sentence[1:]}." for sentence in sentences if sentence)


def flip(kind: str, sentence: str) -> str | None:
    """The sentence with its polarity, side, severity or course turned round; None if it has none that is known."""
    if kind == "polarity":
        return _flip_polarity(sentence)
    opposites = _OPPOSITES[kind]
    pattern = re.compile(rf"\b({'|'.join(opposites)})\b", re.IGNORECASE)
    if not pattern.search(sentence):
        return None
    return pattern.sub(lambda match: opposites[match[1].lower()], sentence, count=1)


def _flip_polarity(sentence: str) -> str | None:
    if _NORMAL_HEART.search(sentence):
        return "The heart is enlarged"
    if _LARGE_HEART.search(sentence):
        return "The heart size is normal"
    if _CLEAR.search(sentence):
        return _CLEAR.sub(r"\1 not clear, there is an abnormality", sentence)
    if match := re.search(r"^no (.+?) has resolved", sentence, re.IGNORECASE):
        return f"{match[1]} has resolved{sentence[match.end() :]}"
    if _NO.search(sentence):
        return _NO.sub("There is ", re.sub(r" (?:is|are) (?:seen|present)\b", "", sentence), count=1)
    if _THERE.search(sentence):
        return _THERE.sub("There is no ", sentence, count=1)
    if match := _CHANGED.search(sentence):
        return f"No {match[1]} is seen"
    if match := _SEEN.search(sentence):
        return f"No {_decapitalize(match[1])} is seen{sentence[match.end() :]}"
    return None


def reorder_words(sentence: str) -> str:
    """The sentence in another form: "There is no X in Y" and "No X is seen in Y", "There is X" and "X is present"."""
    place = r"(?P<place> (?:in|on|at) (?:the|either|both) .+)?$"
    rules = (
        (rf"^there is (?:no evidence of|no) (?P<what>.+?){place}", r"No \g<what> is seen\g<place>"),
        (rf"^no (?P<what>.+?) (?:is|are) (?:seen|present){place}", r"There is no \g<what>\g<place>"),
        (rf"^there is (?P<what>(?:an? )?.+?){place}", r"\g<what> is present\g<place>"),
        (rf"^(?P<what>(?:an? )?.+?) (?:is|are) (?:seen|present){place}", r"There is \g<what>\g<place>"),
    )
    return _rewrite(sentence, rules)


def speak(sentence: str) -> str:
    """The sentence as a model that thinks aloud would say it."""
    place = r"(?P<place> (?:in|on|at) (?:the|either|both) .+)?$"
    rules = (
        (r"^(?:the )?heart size is normal$", "The heart is not enlarged"),
        (r"^(?P<place>the .+?) (?:is|are) (?:clear|unremarkable)$", r"I see no abnormality in \g<place>"),
        (rf"^there is (?:no evidence of|no) (?P<what>.+?){place}", r"The image shows no \g<what>\g<place>"),
        (rf"^no (?P<what>.+?) (?:is|are) (?:seen|present){place}", r"\g<what> is absent\g<place>"),
        (rf"^there is (?P<what>(?:an? )?.+?){place}", r"The image shows \g<what>\g<place>"),
        (rf"^(?P<what>(?:an? )?.+?) (?:is|are) (?:seen|present){place}", r"I can see \g<what>\g<place>"),
        (rf"^the (?P<what>.+?) is (?P<how>new|stable){place}", r"There is \g<how> \g<what>\g<place>"),
        (rf"^the (?P<what>.+?) has (?P<how>increased|decreased){place}", r"I think the \g<what> is \g<how>\g<place>"),
        (rf"^the (?P<what>.+?) has resolved{place}", r"The \g<what> is resolved\g<place>"),
    )
    return _rewrite(sentence, rules)


def _rewrite(sentence: str, rules: Sequence[tuple[str, str]]) -> str:
    """The sentence by the first rule that matches it."""
    for pattern, form in rules:
        if match := re.search(pattern, _decapitalize(sentence), re.IGNORECASE):
            return match.expand(form)
    return sentence


def replace_synonyms(sentence: str) -> str:
    """The sentence with words of the same meaning."""
    for pattern, words in _SYNONYMS:
        sentence = re.sub(pattern, words, sentence, flags=re.IGNORECASE)
    return sentence


def _decapitalize(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]


def paraphrases(text: str) -> list[str]:
    """Texts that state the same facts: in another form, with other words, thought aloud, and with other forms and words
    in reverse order and with words around them."""
    sentences = sentences_of(text)
    both = [replace_synonyms(reorder_words(sentence)) for sentence in reversed(sentences)]
    led = [f"On this image, {_decapitalize(sentence)}" for sentence in both[:1]] + both[1:]
    return [
        join_sentences([reorder_words(sentence) for sentence in sentences]),
        join_sentences([replace_synonyms(sentence) for sentence in sentences]),
        join_sentences([speak(sentence) for sentence in sentences]),
        join_sentences(led),
    ]

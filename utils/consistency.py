"""Agreement of a completion's answer with its own reasoning.

The question is read as a claim ("Is there an effusion on the right?": effusion, right), the reasoning as findings
(`ReXKG.findings`). A yes or no must be what the findings say of the claim. Any other answer must be what the reasoning
asserts: a finding, a side or zone, a severity, a course, or the image on which a finding is. The reference is not
needed, so this also works on questions without a known answer.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

from ReXKG.claims import Claim, is_about, read_claims, truth_of
from ReXKG.finding_scores import contradictions, same_finding
from ReXKG.findings import GENERIC, NEW, RESOLVED, FindingReader, StatedFinding, TextFindings
from ReXKG.text import tokenize
from utils.answers import parse_every_answer, think_span
from utils.strict_rewards import CONTRADICTIONS

SUPPORTED, SILENT, OPPOSED = 1.0, 0.0, -1.0
YES, NO = "yes", "no"
RESTATED = 0.8  # share of a question's words, in one run, that make a reasoning a restatement of it
SHORTEST_RESTATED = 4  # words
SHORTEST_STATEMENT = 3  # words of a statement that supports an answer by its words alone

# Answers that exclude each other, each with the words that say it.
EXCLUSIVE_ANSWERS: dict[str, dict[str, tuple[str, ...]]] = {
    "view": {"ap": ("ap", "anteroposterior"), "pa": ("pa", "posteroanterior"), "lateral": ("lateral",)},
    "sex": {"m": ("m", "male", "man", "men"), "f": ("f", "female", "woman", "women")},
}
_IMAGES = {"new": "second", "resolved": "first", "increased": "both", "decreased": "both", "stable": "both"}
_DENYING = frozenset({"no", "not", "never", "without", "isn't", "isn’t", "cannot"})
_LITTLE = frozenset({"a", "an", "the", "of", "in", "on", "at", "and"})


def support(
    question: Claim, asked: Sequence[str], answers: Set[str], items: Sequence[Claim], reasoning: TextFindings
) -> float:
    """Support of an answer by the reasoning: 1 supported, 0 silent, -1 opposed; the mean over the items of a list.

    Args:
        question: the claim of the question.
        asked: the words of the question.
        answers: the answer's items, in the order of ``items``.
        items: each item as a claim.
        reasoning: the findings and statements of the reasoning.
    """
    if any(pair <= answers for pair in CONTRADICTIONS):
        return OPPOSED
    if answers in ({YES}, {NO}):
        truth = truth_of(question, reasoning.findings)
        if truth is None:
            truth = _truth_by_words(asked, reasoning.statements)
        if not asked and reasoning.findings:  # without a question, yes means that something is there
            truth = any(finding.present for finding in reasoning.findings)
        return SILENT if truth is None else SUPPORTED if truth == (YES in answers) else OPPOSED
    if not answers:
        return _support_of_nothing(question, reasoning.findings)
    values = [_support_of_item(question, text, item, reasoning) for text, item in zip(answers, items, strict=True)]
    return sum(values) / len(values)


def _support_of_nothing(question: Claim, findings: Sequence[StatedFinding]) -> float:
    """Support of an empty answer: the reasoning denies what is asked for, or tells of something else only."""
    truth = truth_of(question._replace(names=question.names or tuple(GENERIC)), findings)
    if truth is None:
        return SUPPORTED if any(not finding.present for finding in findings) else SILENT
    return OPPOSED if truth else SUPPORTED


def _support_of_item(question: Claim, text: str, item: Claim, reasoning: TextFindings) -> float:
    findings = [finding for finding in reasoning.findings if not finding.is_earlier]
    if item.names and text != "normal":
        return _support_of_finding(question, item, findings)
    about = [f for f in findings if not question.names or any(is_about(name, f) for name in question.names)]
    verdicts = [verdict for finding in about if (verdict := _attribute_verdict(text, item, finding)) is not None]
    if verdicts:
        return SUPPORTED if True in verdicts else OPPOSED
    return _support_by_words(text, reasoning.statements)


def _support_of_finding(question: Claim, item: Claim, findings: Iterable[StatedFinding]) -> float:
    """A named finding is supported if it is asserted, or resolved if that is what the question asks for."""
    same = [finding for finding in findings if any(same_finding(name, finding.name) for name in item.names)]
    if question.courses == {RESOLVED}:
        good = [finding.course == RESOLVED for finding in same]
    elif question.courses == {NEW}:
        good = [finding.present and finding.course == NEW for finding in same]
    else:
        good = [finding.present for finding in same]
    return SILENT if not good else SUPPORTED if any(good) else OPPOSED


def _attribute_verdict(text: str, item: Claim, finding: StatedFinding) -> bool | None:
    """Truth of an answer that names an attribute, by one finding; None if it says nothing of it."""
    if text in _IMAGES.values():
        image = _IMAGES.get(finding.course or "")
        return None if image is None else image == text
    if text == "normal":
        return not finding.present
    if not finding.present:
        return item.courses == {RESOLVED} if item.courses and finding.course else None
    pairs = [(item.sides, finding.sides), (item.zones, finding.zones)]
    said = [bool(own & asked) for asked, own in pairs if asked and own]
    if item.severities and finding.severity is not None:
        said.append(finding.severity in item.severities)
    if item.courses and finding.course is not None:
        said.append(finding.course in item.courses)
    return all(said) if said else None


def _truth_by_words(asked: Sequence[str], statements: Iterable[str]) -> bool | None:
    """Truth of a question about one of the exclusive answers, such as the view: is its word said, or another's?"""
    for group in EXCLUSIVE_ANSWERS.values():
        wanted = {name for name, words in group.items() if set(words) & set(asked)}
        said = answers_said(group, statements)
        if len(wanted) == 1 and len(said) == 1:
            return wanted == said
    return None


def _support_by_words(text: str, statements: Sequence[str]) -> float:
    """Support of an answer that no finding tells of: its words in a statement that does not deny. A statement of one or
    two words is the answer itself."""
    for group in EXCLUSIVE_ANSWERS.values():
        if text in group and (said := answers_said(group, statements)):
            return SUPPORTED if said == {text} else OPPOSED
    needed = set(tokenize(text)) - _LITTLE
    for statement in statements:
        words = tokenize(statement)
        if len(words) >= SHORTEST_STATEMENT and needed and needed.issubset(words) and not _DENYING.intersection(words):
            return SUPPORTED
    return SILENT


def answers_said(group: Mapping[str, Sequence[str]], statements: Iterable[str]) -> set[str]:
    """The answers of a group of `EXCLUSIVE_ANSWERS` that statements of three words or more say."""
    listed = map(tokenize, statements)
    spoken = {word for words in listed if len(words) >= SHORTEST_STATEMENT for word in words}
    return {name for name, words in group.items() if spoken.intersection(words)}


def asked_questions(count: int, columns: Mapping[str, Sequence[Any]]) -> list[str]:
    """The question of each of ``count`` records: the column ``question``, else the last user turn of ``messages``; ""
    if a record has neither."""
    missing = [None] * count
    rows = zip(columns.get("question") or missing, columns.get("messages") or missing, strict=True)
    return [asked or _last_user_turn(turns or ()) for asked, turns in rows]


def _last_user_turn(turns: Sequence[Mapping[str, Any]]) -> str:
    spoken = (turn["content"] for turn in reversed(turns) if turn["role"] == "user")
    return next((content for content in spoken if isinstance(content, str)), "")


def consistency(completions: Sequence[str], questions: Sequence[str], reader: FindingReader) -> list[float]:
    """Support of each completion's answer by its ``<think>`` span (`support`), from -1 to 1.

    All ``<answer>`` spans of a completion count as one answer. A reasoning that contradicts itself scores -1. A
    positive score is multiplied by the share of statements that are not said again in the same words.
    """
    reasonings = [think_span(text) or "" for text in completions]
    claims = read_claims(questions, reader)
    ordered = [sorted(parse_every_answer(text)) for text in completions]
    item_claims = iter(read_claims([item for items in ordered for item in items], reader))
    scores = []
    for question, claim, items, reading in zip(questions, claims, ordered, reader(reasonings), strict=True):
        own_claims = [next(item_claims) for _ in items]
        if contradictions(reading.findings):
            scores.append(OPPOSED)
            continue
        value = support(claim, tokenize(question), dict.fromkeys(items).keys(), own_claims, reading)
        distinct = len(set(reading.statements)) / max(1, len(reading.statements))
        scores.append(value * distinct if value > 0 else value)
    return scores


def restates(question: str, reasoning: str) -> bool:
    """True if the reasoning holds `RESTATED` of the question's words in one run."""
    asked, words = (re.findall(r"\w+", text.lower()) for text in (question, reasoning))
    size = max(SHORTEST_RESTATED, math.ceil(RESTATED * len(asked)))
    runs = {tuple(asked[start : start + size]) for start in range(len(asked) - size + 1)}
    return any(tuple(words[start : start + size]) in runs for start in range(len(words) - size + 1))


def reasoning_signs(
    completions: Sequence[str], questions: Sequence[str], reader: FindingReader
) -> dict[str, tuple[float, float]]:
    """Cheap signs of a reward that is being gamed, each as (number of completions, completions).

    signs/contradictory    the reasoning contradicts itself
    signs/against_answer   the reasoning opposes the answer, and does not contradict itself
    signs/restates         the reasoning holds the question
    """
    reasonings = [think_span(text) or "" for text in completions]
    broken = [contradictions(reading.findings) > 0 for reading in reader(reasonings)]
    opposed = [value < 0 for value in consistency(completions, questions, reader)]
    restated = [restates(*pair) for pair in zip(questions, reasonings, strict=True)]
    count = float(len(reasonings))
    return {
        "signs/contradictory": (float(sum(broken)), count),
        "signs/against_answer": (float(sum(o and not b for o, b in zip(opposed, broken, strict=True))), count),
        "signs/restates": (float(sum(restated)), count),
    }

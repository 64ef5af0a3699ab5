"""Attacks on rewards: completions that deserve less than the truth, made from a record and its reference.

The reasoning is attacked under the right answer, so that a reward has to read it. Three attacks hedge the answer under
the right reasoning. ``paraphrase`` is not an attack: it must keep the truth's reward.
"""

from __future__ import annotations

import random
import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ReXKG.claims import read_claims
from ReXKG.findings import FindingReader
from tools.audits.sentences import FLIPS, flip, join_sentences, paraphrases, sentences_of
from utils.answers import has_think_answer_shape, normalise_answers, parse_answers, think_text
from utils.questions import patient_of

TRUTH, PARAPHRASE = "truth", "paraphrase"
EVERY_FINDING = (
    "pleural effusion", "pneumothorax", "consolidation", "atelectasis", "cardiomegaly", "pulmonary edema", "pneumonia",
    "nodule", "opacity", "fracture", "endotracheal tube", "pacemaker",
)  # fmt: skip
NORMAL_STATEMENTS = (
    "The heart size is normal. The lungs are clear. There is no pneumothorax. No pleural effusion is seen. "
    "The bones are intact. The mediastinum is unremarkable."
)
REPORT_TEMPLATE = f"FINDINGS: {NORMAL_STATEMENTS} IMPRESSION: No acute cardiopulmonary abnormality."
REPETITIONS = 3
MOST_ANSWERS = 30
_DONORS = 20  # records that are looked at for another one's reasoning


@dataclass(frozen=True)
class AuditRecord:
    """One question with its reference.

    Attributes:
        item: the object of the data file, whose fields the rewards get as columns.
        question: the question's text.
        reasoning: the reference's reasoning.
        answers: the reference's answers, in order.
    """

    item: dict[str, Any]
    question: str
    reasoning: str
    answers: tuple[str, ...]

    @property
    def solution(self) -> str:
        """The reference with its tags."""
        return tagged(self.reasoning, ", ".join(self.answers))


def make_record(item: dict[str, Any], question: str, solution: str) -> AuditRecord:
    """A record from an object of a data file. Its own ``answer`` counts, else the one that the solution gives."""
    own = item.get("answer")
    answers = own.split(",") if isinstance(own, str) else own if isinstance(own, list) else None
    if answers is None or not has_think_answer_shape(solution):
        answers = sorted(parse_answers(solution)) if answers is None else answers
    kept = normalise_answers(map(str, answers))
    ordered = dict.fromkeys(str(answer).strip().lower() for answer in answers)
    return AuditRecord(item, question, think_text(solution), tuple(answer for answer in ordered if answer in kept))


def tagged(reasoning: str, answer: str) -> str:
    """A completion in the usual form."""
    return f"<think>{reasoning}</think><answer>{answer}</answer>"


class Attacks:
    """The attacks on records of one data set.

    ``reader`` finds statements with findings, since only these are flipped, and tells if two reasonings state the same.
    """

    def __init__(self, records: Sequence[AuditRecord], reader: FindingReader, seed: int = 0) -> None:
        self._records = records
        self._reader = reader
        self._seed = seed
        answers = dict.fromkeys(answer for record in records for answer in record.answers)
        self._every_answer = ", ".join(list(answers)[:MOST_ANSWERS])
        self._claims = read_claims([record.question for record in records], reader)

    def completions(self, position: int) -> dict[str, list[str]]:
        """The completions of each attack on the record at ``position``. An attack that does not apply is left out."""
        record = self._records[position]
        answer = ", ".join(record.answers)
        listed = ", ".join(EVERY_FINDING[:-1])
        sentences = sentences_of(record.reasoning)
        rng = random.Random(f"{self._seed} {position}")
        reasonings: dict[str, list[str]] = {
            TRUTH: [record.reasoning],
            PARAPHRASE: [text for text in paraphrases(record.reasoning) if text],
            "empty reasoning": [""],
            "question copied": [record.question],
            "question asserted": self._asserted_question(position),
            "every finding listed": [f"There is {listed} and {EVERY_FINDING[-1]}."],
            "every finding denied": [f"There is no {listed} or {EVERY_FINDING[-1]}."],
            "every finding hedged": [f"There may be {listed} or {EVERY_FINDING[-1]}."],
            "report template": [REPORT_TEMPLATE],
            **{f"one {kind} flipped": self._flipped(kind, sentences) for kind in FLIPS},
            "both polarities": self._both_polarities(sentences),
            "both sides": _both_sides(record.reasoning),
            "repetition": [" ".join([join_sentences(sentences)] * REPETITIONS)] if sentences else [],
            "padding": [f"{join_sentences(sentences)} {NORMAL_STATEMENTS}"],
            "another's reasoning": self._others(position, rng),
            "gibberish": [_gibberish(rng, max(6, len(record.reasoning.split())))],
        }
        texts = {name: [tagged(text, answer) for text in listed] for name, listed in reasonings.items()}
        texts["answer alone"] = [f"<answer>{answer}</answer>"]
        hedge = "yes, no" if set(record.answers) <= {"yes", "no"} and record.answers else self._every_answer
        texts["yes, no" if hedge == "yes, no" else "every answer"] = [tagged(record.reasoning, hedge)]
        more = "".join(f"<answer>{other}</answer>" for other in hedge.split(", ") if other not in record.answers)
        texts["several answer tags"] = [record.solution + more] if more else []
        return {name: listed for name, listed in texts.items() if listed}

    def _flipped(self, kind: str, sentences: Sequence[str]) -> list[str]:
        """The reasoning with the first sentence flipped that states a finding."""
        for number, sentence in enumerate(sentences):
            changed = flip(kind, sentence)
            if changed and changed != sentence and self._reader([sentence])[0].findings:
                return [join_sentences([*sentences[:number], changed, *sentences[number + 1 :]])]
        return []

    def _both_polarities(self, sentences: Sequence[str]) -> list[str]:
        """The reasoning with each sentence that states a finding followed by its opposite."""
        stated = self._reader(sentences)
        opposites = [
            flip("polarity", sentence) if reading.findings else None
            for sentence, reading in zip(sentences, stated, strict=True)
        ]
        pairs = [part for pair in zip(sentences, opposites, strict=True) for part in pair if part]
        return [join_sentences(pairs)] if len(pairs) > len(sentences) else []

    def _asserted_question(self, position: int) -> list[str]:
        """The findings that the question names, all asserted, unless that is what the reference states."""
        names = self._claims[position].names
        text = f"The image shows {' and '.join(names)}."
        stated = [set(reading.findings) for reading in self._reader([text, self._records[position].reasoning])]
        return [text] if names and stated[0] != stated[1] else []

    def _others(self, position: int, rng: random.Random) -> list[str]:
        """Another patient's reasoning that states something else."""
        record = self._records[position]
        own = set(self._reader([record.reasoning])[0].findings)
        for _ in range(_DONORS):
            other = self._records[rng.randrange(len(self._records))]
            same_patient = patient_of(other.item) is not None and patient_of(other.item) == patient_of(record.item)
            if same_patient or other.reasoning == record.reasoning:
                continue
            if own and set(self._reader([other.reasoning])[0].findings) == own:
                continue
            return [other.reasoning]
        return []


ATTACK_NAMES = (
    TRUTH, PARAPHRASE, "empty reasoning", "answer alone", "question copied", "question asserted",
    "every finding listed", "every finding denied", "every finding hedged", "report template",
    *(f"one {kind} flipped" for kind in FLIPS), "both polarities", "both sides", "repetition", "padding", "yes, no",
    "every answer", "several answer tags", "another's reasoning", "gibberish",
)  # fmt: skip


def _both_sides(reasoning: str) -> list[str]:
    """The reasoning with both sides in place of one."""
    hedged = re.sub(r"\b(?:left|right)\b", "left and right", reasoning, flags=re.IGNORECASE)
    return [hedged] if hedged != reasoning else []


def _gibberish(rng: random.Random, words: int) -> str:
    return " ".join("".join(rng.choices(string.ascii_lowercase, k=rng.randrange(3, 9))) for _ in range(words)) + "."

"""Results of an evaluation and completions of a training run without their texts: scores, lengths and probabilities.

A row names its question, patient and images by pseudonyms, so that intervals over patients and pairs of runs stay what
they were. Its values by every metric stand under ``scores``, where `utils.metrics` reads them. An answer becomes a
pseudonym that holds for its own question alone: equal answers to one question stay equal, and nobody can count how
often "yes" was said. So "yes" and "no" do not pass either.
"""

from __future__ import annotations

import math
import os.path
from collections.abc import Mapping, Sequence
from typing import Any

from tools.redaction.documents import RESULT_FACTS, dataset_name, kind_of_question, patient
from tools.redaction.rules import DROP, Notes, keyed, made_of, matching, number, numbers, pseudonym, record
from tools.reports.result_shapes import facts_problem, row_problem
from utils.answers import in_form_of, parse_answers, reasoning_of
from utils.metrics import ACCURACY_RULES, STORED_SCORES, question_metrics, reference_answers
from utils.questions import IMAGE_NAMES, question_name

TOKEN_FIELDS = tuple(
    f"{prefix}_{name}" for prefix in ("token", "given_token") for name in ("probabilities", "logprobs", "entropies",
                                                                           "ranks")
)  # fmt: skip
VERDICTS = keyed(matching("|".join(ACCURACY_RULES)), number)
ANSWER_NUMBERS = record(
    num_tokens=number, finished=number, is_correct=number, correct=VERDICTS, **dict.fromkeys(TOKEN_FIELDS, numbers)
)


def image_name(value: Any, name: str, notes: Notes) -> Any:
    """A pseudonym of an image by the name of its file, whatever its folder and extension. Lists stay lists."""
    if isinstance(value, list):
        return [image_name(item, name, notes) for item in value]
    if isinstance(value, Mapping) and isinstance(value.get("path"), str):
        return {"path": image_name(value["path"], name, notes)}
    if isinstance(value, str):
        value = os.path.splitext(os.path.basename(value.replace("\\", "/")))[0] or value
    return pseudonym("image")(value, name, notes)


# The fields of a result that describe its question.
_QUESTION = record(
    subject_id=patient,
    study_id=pseudonym("study"),
    dataset=dataset_name,
    **dict.fromkeys(("semantic_type", "content_type", "question_type"), kind_of_question),
    **dict.fromkeys(IMAGE_NAMES, image_name),
    **dict(zip(ANSWER_NUMBERS.words, ANSWER_NUMBERS.parts, strict=True)),
)
_COMPLETION = record(
    step=number,
    group=pseudonym("group"),
    idx=pseudonym("question"),
    per_token_logps=numbers,
    per_token_vision_dependency=numbers,
    vision_weight=number,
    rewards=keyed(matching(r"[A-Za-z_][A-Za-z0-9_]{0,39}"), number),
    advantage=number,
    finished=number,
    in_loss=number,
    preference=number,
)


@made_of(_COMPLETION)
def completion_row(row: Any, name: str, notes: Notes) -> Any:
    """A line of completions.jsonl that may be shared. Equal texts are equal there within one question alone."""
    passed = _COMPLETION(row, name, notes)
    if passed is not DROP:
        question = row.get("idx", row.get("group"))
        texts = {field: row[field] for field in ("prompt", "completion") if isinstance(row.get(field), str)}
        passed |= {field: notes.names.of("text", question, text) for field, text in texts.items()}
    return passed


@made_of(RESULT_FACTS, _QUESTION)
def result_document(document: Any, name: str, notes: Notes) -> Any:
    """A result file that may be shared. `DROP` for anything else."""
    results = document.get("results") if isinstance(document, Mapping) else None
    if not isinstance(results, list) or not all(isinstance(row, Mapping) for row in results):
        return notes.withhold(name, document)
    if problem := next(filter(None, [facts_problem(document), *map(row_problem, results)]), None):
        raise ValueError(problem)
    facts = RESULT_FACTS(
        {own: value for own, value in document.items() if own not in ("results", "skipped")}, name, notes
    )
    dataset = str(document.get("dataset"))
    columns, rows = _scores(results), []
    for position, row in enumerate(results):
        scores = {own: float(column[position]) for own, column in columns.items()}
        rows.append(shared_result(row, question_name(row, position), dataset, scores, notes))
    skipped = document.get("skipped") if isinstance(document.get("skipped"), list) else []
    notes.withheld["reason"] += len(skipped)
    names = [notes.names.of("question", dataset, entry.get("id")) for entry in skipped if isinstance(entry, Mapping)]
    return {**facts, "results": rows, "skipped": [{"id": own} for own in names]}


def shared_result(
    row: Mapping[str, Any], question: str, dataset: str, scores: Mapping[str, float], notes: Notes
) -> dict[str, Any]:
    """One result. ``question`` is its name in the file, and ``scores`` its values by metric."""
    own = notes.names.of("question", dataset, question)
    passed = {"id": own, "idx": own, **_QUESTION(row, "results", notes)}
    passed["question"] = notes.names.of("text", dataset, question, row.get("question"))
    if "generated_text" not in row:
        return passed
    reference = reference_answers(row)

    def answered(text: str) -> str:
        answers = sorted(in_form_of(parse_answers(text), reference))
        return ", ".join(_answer(answer, own, notes) for answer in answers)

    explanation = row.get("explanation") or None
    passed["explanation"] = explanation and (
        answered(explanation) if reasoning_of(explanation) is None else notes.names.of("text", own, explanation)
    )
    passed["answer"] = [_answer(answer, own, notes) for answer in sorted(reference)]
    passed["generated_text"] = answered(row["generated_text"])
    if row.get("samples"):
        passed["samples"] = [
            ANSWER_NUMBERS(sample, "samples", notes) | {"generated_text": answered(sample["generated_text"])}
            for sample in row["samples"]
        ]
    passed[STORED_SCORES] = {name: value if math.isfinite(value) else None for name, value in scores.items()}
    return passed


def _answer(answer: str, question: str, notes: Notes) -> str:
    return notes.names.of("answer", question, answer)


def _scores(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The values of every metric. Empty for a file of scores of given texts."""
    if not results or any("generated_text" not in row for row in results):
        return {}
    return question_metrics(results)

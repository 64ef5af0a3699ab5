"""Result files: one entry per question, the scores, and the settings that decided the answers.

Everything in them is a function of questions and answers. How often a run was killed, or how many processes shared it,
changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from swift.evaluation.answering import Answer, Answered
from swift.llm.dataset import Record
from swift.llm.records.parts import ANSWER_FIELDS
from utils.get_knowledge_graph import extractor_name
from utils.metrics import ACCURACY_RULES, PUBLISHED_RULE, RULES, STORED_SCORES, judge, notes_of, reference_answers
from utils.questions import question_id
from utils.self_consistency import majority_answers
from utils.summaries import summarize_given, summarize_results

# Fields of a row about the answer, by name and by prefix. A question's own fields of these names are left out, since
# they would pass for the model's output.
_ANSWER_FIELDS = {
    "samples",
    "majority_answer",
    "correct",
    "is_correct",
    "num_tokens",
    "finished",
    "image_paths",
    STORED_SCORES,
}
_ANSWER_PREFIXES = ("token_", "given_", "generated_")


def stored(answered: Answered, question: str) -> dict[str, Any]:
    """The line of a question in a partial file. ``question`` is its digest."""
    row: dict[str, Any] = {"index": answered.index, "question": question}
    if answered.problem is not None:
        return row | {"problem": answered.problem}
    return row | {"answers": [_stored_answer(answer) for answer in answered.answers]}


def _stored_answer(answer: Answer) -> dict[str, Any]:
    entry: dict[str, Any] = {"text": answer.text, "num_tokens": len(answer.token_ids), "finished": answer.finished}
    if answer.scores is not None:
        scores = answer.scores
        entry |= {
            "tokens": scores.tokens,
            "logprobs": scores.logprobs,
            "entropies": scores.entropies,
            "ranks": scores.ranks,
        }
        if any(scores.alternatives):
            entry["alternatives"] = scores.alternatives
    return entry


def with_explanation(record: Record) -> dict[str, Any]:
    """The record's own fields, with the solution under its name in evaluation files. A solution that was made from the
    ``answer`` explains nothing and is left out."""
    columns = {name: value for name, value in record.columns.items() if name != "solution"}
    return columns | {"explanation": None if record.solution_field in ANSWER_FIELDS else record.solution}


def result_row(record: Record, index: int, answers: Sequence[Mapping[str, Any]], given: bool = False) -> dict[str, Any]:
    """One entry of ``results``: the fields of the question, except those named as an answer's, and its answers.

    ``image_paths`` are the images shown; under a control they are not those of ``image_ids``. An image that is not a
    file is null. ``answers`` are as stored.
    """
    columns = {name: value for name, value in with_explanation(record).items() if not _is_answer_field(name)}
    if columns.get("id", index) is None:
        del columns["id"]
    first = answers[0]
    row = {
        "id": question_id(record.columns, index),
        "question": record.messages[-1]["content"],
        **columns,
        "image_paths": [None if source.path is None else source.name for source in record.images],
    }
    if given:
        return row | {"given_text": first["text"]} | _token_fields(first, "given_tokens", "given_token")
    reference = reference_answers(columns)
    row |= _generated(first, reference)
    if len(answers) > 1:
        row["samples"] = [_generated(answer, reference) for answer in answers]
        row["majority_answer"] = sorted(majority_answers([answer["text"] for answer in answers]))
    return row


def _is_answer_field(name: str) -> bool:
    return name in _ANSWER_FIELDS or name.startswith(_ANSWER_PREFIXES)


def _generated(answer: Mapping[str, Any], reference: frozenset[str]) -> dict[str, Any]:
    correct = judge(answer["text"], reference)
    return {
        "generated_text": answer["text"],
        "num_tokens": answer["num_tokens"],
        "finished": answer["finished"],
        "is_correct": correct[PUBLISHED_RULE],
        "correct": correct,
        **_token_fields(answer, "generated_tokens", "token"),
    }


def _token_fields(answer: Mapping[str, Any], tokens: str, prefix: str) -> dict[str, Any]:
    if "tokens" not in answer:
        return {}
    fields = {
        tokens: answer["tokens"],
        f"{prefix}_probabilities": [float(f"{math.exp(value):.7g}") for value in answer["logprobs"]],
        f"{prefix}_logprobs": answer["logprobs"],
        f"{prefix}_entropies": answer["entropies"],
        f"{prefix}_ranks": answer["ranks"],
    }
    if "alternatives" in answer:
        fields[f"{prefix}_alternatives"] = [
            [{"token": token, "logprob": logprob} for token, logprob in options] for options in answer["alternatives"]
        ]
    return fields


def build_document(
    facts: Mapping[str, Any],
    records: Sequence[Record],
    answers: Mapping[int, Sequence[Mapping[str, Any]]],
    skipped: Mapping[int, str],
    given: bool,
    malformed: Sequence[tuple[str, str]] = (),
) -> dict[str, Any]:
    """Build the contents of a result file.

    It holds ``facts``, the scores over the answered questions, ``results`` in the order of the questions, and
    ``skipped``, the questions that could not be asked. ``answers`` and ``skipped`` are by position. ``malformed`` are
    place and reason of entries that could not even be read as questions.
    """
    results = [result_row(records[index], index, answers[index], given) for index in sorted(answers)]
    listed = [
        {"id": question_id(records[index].columns, index), "source": records[index].source, "reason": skipped[index]}
        for index in sorted(skipped)
    ]
    listed += [{"id": None, "source": source, "reason": reason} for source, reason in malformed]
    document: dict[str, Any] = {**facts, "num_samples": len(results), "num_skipped": len(listed)}
    if listed:
        document["scored_over"] = f"the {len(results)} questions answered; {len(listed)} skipped ones count nowhere"
    if given:
        document |= summarize_given(results)
    else:
        accuracies = {rule: sum(row["correct"][rule] for row in results) / len(results) for rule in ACCURACY_RULES}
        document |= {
            "accuracy": accuracies[PUBLISHED_RULE],
            "accuracy_rule": PUBLISHED_RULE,
            "accuracies": accuracies,
            "rules": RULES,
            **summarize_results(results),
            **({"notes": notes} if (notes := notes_of(results)) else {}),
            "extractor": extractor_name(),
        }
    return document | {"results": results, "skipped": listed}


def screen_lines(document: Mapping[str, Any]) -> list[str]:
    """The scores for the terminal, one line each: mean [95% interval] and the rule behind it."""
    metrics, width = document["metrics"], max(map(len, document["metrics"]))

    def line(name: str, note: str = "") -> str:
        value = metrics[name]
        return f"  {name:{width}}  {value['mean']:.3f} [{value['lo']:.3f}, {value['hi']:.3f}]  {note}".rstrip()

    if "rules" not in document:
        return [line(name) for name in metrics]
    more = [name for name in ("kg_jaccard", "hallucination", "omission", "format", "length") if name in metrics]
    sampled = [name for name in metrics if name.startswith(("pass@", "majority_vote"))]
    lines = [line(name, note) for name, note in RULES.items()] + [line(name) for name in [*more, *sampled]]
    for name in ("ece", "auroc"):
        if value := document.get("calibration", {}).get(name):
            lines.append(f"  {name:{width}}  {value['mean']:.3f} [{value['lo']:.3f}, {value['hi']:.3f}]")
    return lines + [f"  note: {note}" for note in document.get("notes", ())]

"""The texts of the audit's graphs: explanations, generated texts, and reports of the questions' studies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from swift.llm.dataset import raise_problems
from swift.llm.records.files import read_items
from swift.llm.records.parts import find_solution
from swift.utils.errors import UserError
from tools.kg_audit.graph_files import NamedTexts
from tools.reports.result_files import read_results
from utils.answers import think_text
from utils.mimic import join_texts, study_key
from utils.questions import question_name

AuditRow = Mapping[str, Any]


def read_audited(path: Path) -> list[AuditRow]:
    """The results of a result file, each with its ``dataset``, ``checkpoint``, ``control`` and ``idx``. Raises
    UserError if a result has no generated text or no explanation."""
    document = read_results(path, ("generated_text",))
    defaults = {"dataset": path.stem, "checkpoint": None, "control": "none"}
    facts = {name: document.get(name, default) for name, default in defaults.items()}
    rows = [row | facts | {"idx": question_name(row, n)} for n, row in enumerate(document["results"])]
    raise_problems(
        f"result file {path} result {number}: field '{field}' must be a text to compare, it is {row.get(field)!r:.40}"
        for number, row in enumerate(rows)
        for field, empty in (("generated_text", None), ("explanation", ""))
        if not isinstance(row.get(field), str) or row[field] == empty
    )
    return rows


def read_annotation_file(path: Path) -> list[AuditRow]:
    """The records of an annotation or training file, each with ``explanation`` and ``idx``. Raises UserError if a
    record has no explanation, solution or assistant turn."""
    rows, problems = [], []
    for number, (item, where) in enumerate(read_items(path)):
        try:
            explanation = find_solution(item)
            if explanation is None:
                raise UserError("there is no explanation, solution or final assistant turn; add the explanation")
            rows.append(item | {"explanation": explanation, "idx": question_name(item, number)})
        except UserError as error:
            problems.append(f"{where}: {error}")
    raise_problems(problems)
    return rows


def reference_texts(rows: Sequence[AuditRow], path: Path) -> NamedTexts:
    """The reasoning of each explanation."""
    return NamedTexts([row["idx"] for row in rows], [think_text(row["explanation"]) for row in rows], str(path))


def generated_texts(rows: Sequence[AuditRow], path: Path, reading: Callable[[str], str] = think_text) -> NamedTexts:
    """The part of each generated text that ``reading`` selects."""
    return NamedTexts([row["idx"] for row in rows], [reading(row["generated_text"]) for row in rows], str(path))


def report_texts(rows: Sequence[AuditRow], path: Path, reports: Mapping[str, str]) -> NamedTexts:
    """The reports of each question's studies, from texts by study. Empty for a question without reports."""
    texts = [join_texts(reports.get(study, "") for study in studies_of(row)) for row in rows]
    return NamedTexts(study_names(rows), texts, str(path))


def study_names(rows: Sequence[AuditRow]) -> list[str]:
    """The names of the texts of `report_texts`: each question's studies."""
    return ["+".join(studies_of(row)) for row in rows]


def studies_of(row: AuditRow) -> list[str]:
    """The `study_key` of each study that the question is about. Empty if the question names none."""
    study = row.get("study_id")
    studies = study if isinstance(study, list) else [study]
    return [study_key(one) for one in studies if one is not None]

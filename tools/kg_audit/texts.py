"""The texts of the audit's graphs: explanations, generated texts, and reports of the questions' studies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from swift.llm.dataset import raise_problems
from swift.llm.records.files import read_items
from swift.llm.records.parts import find_solution
from swift.utils.errors import UserError
from swift.utils.logger import get_logger
from tools.kg_audit.graph_files import NamedTexts
from tools.reports.result_files import read_results
from utils.answers import reasoning_of, think_text
from utils.mimic import join_texts, study_key
from utils.questions import question_name

AuditRow = Mapping[str, Any]
logger = get_logger()


def read_audited(path: Path) -> list[AuditRow]:
    """The results of a result file, each with its ``dataset``, ``checkpoint``, ``control`` and ``idx``. Raises
    UserError if a result has no generated text, or an explanation that is not a text."""
    document = read_results(path, ("generated_text",))
    defaults = {"dataset": path.stem, "checkpoint": None, "control": "none"}
    facts = {name: document.get(name, default) for name, default in defaults.items()}
    return [row | facts | {"idx": question_name(row, n)} for n, row in enumerate(document["results"])]


def read_annotation_file(path: Path) -> list[AuditRow]:
    """The records of an annotation or training file, each with ``idx`` and with its explanation, solution or assistant
    turn as ``explanation``, None if it has none. Raises UserError for what is not a record."""
    rows, problems = [], []
    for number, (item, where) in enumerate(read_items(path)):
        try:
            rows.append(item | {"explanation": find_solution(item), "idx": question_name(item, number)})
        except UserError as error:
            problems.append(f"{where}: {error}")
    raise_problems(problems)
    return rows


def reference_texts(rows: Sequence[AuditRow], path: Path) -> NamedTexts:
    """The reasoning of each explanation; empty if there is none."""
    return NamedTexts([row["idx"] for row in rows], [reasoning_of_row(row) or "" for row in rows], str(path))


def reasoning_of_row(row: AuditRow) -> str | None:
    """The reasoning of the row's explanation. None if it has no explanation, or one that is an answer alone."""
    return reasoning_of(row.get("explanation") or None)


def can_be_audited(rows: Sequence[AuditRow], path: Path) -> bool:
    """True if any row has reasoning to compare with. The log says how many have none."""
    bare = sum(reasoning_of_row(row) is None for row in rows)
    if bare == len(rows):
        logger.warning("%s: no question has an explanation with reasoning, so there is nothing to audit", path)
    elif bare:
        logger.warning(
            "%s: %d of %d questions have no explanation with reasoning and do not count", path, bare, len(rows)
        )
    return bare < len(rows)


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

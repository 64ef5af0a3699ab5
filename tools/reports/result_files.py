"""Result files of `evaluate.py`, read one by one, or as runs to compare: aligned by question, scored by one ruler."""

from __future__ import annotations

import fnmatch
import glob
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from swift.evaluation.arguments import TokenArguments
from swift.llm.dataset import raise_problems
from swift.utils.decisive import Decides, fields_that_decide
from swift.utils.errors import UserError
from swift.utils.files import read_json, try_read_json
from swift.utils.logger import get_logger
from tools.reports.result_shapes import facts_problem, row_problem, without_infinities
from utils.metrics import question_metrics
from utils.questions import question_name

FIELDS = ("question", "generated_text", "num_tokens")
# Endings of the files of evaluate.py and evaluate_token_prob.py.
ENDINGS = ("_results.json", "_token_prob.json")
# Settings in which compared runs may differ without a warning: what they are compared for, the version of the file, and
# numbers that a file holds beside its answers.
EXPECTED_TO_DIFFER = {"weights", "control", "format", "tokens"} | fields_that_decide(TokenArguments, Decides.EXTRAS)
NO_CONTROL = "none"
# Fields of a result that name the kind of its question, with their names in tables.
GROUPINGS = {
    "dataset": "file",
    "semantic_type": "semantic type",
    "content_type": "content type",
    "question_type": "question type",
}

QuestionKey = tuple[str, str]  # dataset, and name of the question in it

logger = get_logger()


@dataclass(frozen=True)
class ResultFile:
    """A result file that was read."""

    path: Path
    document: dict[str, Any]

    @property
    def dataset(self) -> str:
        """The name of its questions."""
        return str(self.document.get("dataset", self.path.stem))

    @property
    def control(self) -> str:
        """The control under which it was answered: none, blank or shuffled."""
        return str(self.document.get("control") or NO_CONTROL)

    @cached_property
    def facts(self) -> dict[str, Any]:
        """The facts of the file beside its results."""
        return {name: value for name, value in self.document.items() if name != "results"}


@dataclass(frozen=True)
class EvaluatedRun:
    """One policy's answers, in the order of the first run's questions, and their metrics, each an array [N]."""

    name: str
    documents: list[dict[str, Any]]  # what the files say beside their results
    results: list[dict[str, Any]]
    metrics: dict[str, np.ndarray]
    keys: tuple[QuestionKey, ...] = ()  # of the results


def load_runs(files: Mapping[str, Sequence[str | Path]]) -> dict[str, EvaluatedRun]:
    """Runs by name from the paths of each one's files, as `align_runs` makes them."""
    return align_runs({name: read_result_files(paths) for name, paths in files.items()})


def read_result_files(paths: Iterable[str | Path]) -> list[ResultFile]:
    """Read result files. Raises UserError for a file that is not one."""
    return [ResultFile(Path(path), read_results(path)) for path in paths]


def align_runs(files: Mapping[str, Sequence[ResultFile]]) -> dict[str, EvaluatedRun]:
    """Runs by name from the files of each. All must hold the same questions, in any order.

    Warns of runs that were evaluated with different settings. Raises UserError for a question twice in one run, or runs
    that differ in their questions.
    """
    runs: dict[str, EvaluatedRun] = {}
    keys: tuple[QuestionKey, ...] = ()
    for name, own in files.items():
        by_key = results_by_question(own)
        keys = keys or tuple(by_key)
        if other := set(keys) ^ by_key.keys():
            dataset, question = min(other, key=str)
            raise UserError(
                f"{name} and {next(iter(runs))} answer different questions: question {question} of {dataset} is in "
                "only one of them; compare runs over the same annotation files and --max_samples"
            )
        results = [by_key[key] for key in keys]
        try:
            metrics = question_metrics(results)
        except ValueError as error:
            raise UserError(f"result files of {name} cannot be scored: {error}") from error
        runs[name] = EvaluatedRun(name, [file.facts for file in own], results, metrics, keys)
    if other := _different_settings(list(runs.values())):
        logger.warning("the runs were evaluated with different settings, so they may differ for that: %s", other)
    return runs


def find_files(paths: Sequence[str | Path]) -> list[Path]:
    """The result files at ``paths``: files, folders of evaluation scripts, or patterns. Raises UserError for a path
    without any."""
    files: list[Path] = []
    for path in map(str, paths):
        if Path(path).is_dir():
            matching = _files_of(Path(path))
        else:
            matching = [Path(path)] if Path(path).exists() else sorted(map(Path, glob.glob(path)))
        if not matching:
            raise UserError(f"no result file at {path}; pass files that evaluate.py wrote, or a folder that holds them")
        files += matching
    return files


def _files_of(folder: Path) -> list[Path]:
    """The result files of a folder, without scores of given texts. Of two files over the same questions, the one with
    token probabilities, which has everything that the other has."""
    chosen = {}
    for ending in ENDINGS:
        chosen |= {path.name.removesuffix(ending): path for path in folder.glob(f"*{ending}")}
    return [chosen[name] for name in sorted(chosen) if not _is_of_given_texts(chosen[name])]


def _is_of_given_texts(path: Path) -> bool:
    """True if the file holds scores of texts that were given. It is read only if its name leaves that open."""
    if "_given_" not in path.name or not path.name.endswith(ENDINGS[1]):
        return False
    settings = (try_read_json(path) or {}).get("settings")
    return not (isinstance(settings, dict) and "given" in settings and settings["given"] is None)


def read_results(path: str | Path, fields: Sequence[str] = FIELDS) -> dict[str, Any]:
    """The document of a result file whose results all have ``fields``. Raises UserError for any other file."""
    document = read_json(path, "pass a file that evaluate.py wrote", what="result file")
    if b"\\ud" in Path(path).read_bytes().lower():  # perhaps half a surrogate pair, which only an escape can hold
        document = json.loads(writable(json.dumps(document, ensure_ascii=False)))
    results = document.get("results")
    if not isinstance(results, list) or not results:
        raise UserError(f"result file {path} has no list 'results'; pass a file that evaluate.py wrote")
    problems = (_row_problem(result, fields) for result in results)
    raise_problems(
        f"result file {path} result {position}: {problem}; evaluate again"
        for position, problem in enumerate(problems)
        if problem
    )
    if problem := facts_problem(document):
        raise UserError(f"result file {path}: {problem}; evaluate again")
    facts = {name: value for name, value in document.items() if name != "results"}
    return without_infinities(facts) | {"results": results}


def _row_problem(result: Any, fields: Sequence[str]) -> str | None:
    missing = [field for field in fields if not isinstance(result, dict) or field not in result]
    return f"field '{missing[0]}' is missing" if missing else row_problem(result)


def writable(text: str) -> str:
    """``text`` with "?" for each half of a surrogate pair, which no UTF-8 file can hold."""
    return text.encode("utf-8", "replace").decode("utf-8")


def results_by_question(
    files: Sequence[ResultFile], among: Sequence[ResultFile] | None = None
) -> dict[QuestionKey, dict[str, Any]]:
    """The results of the files of one evaluation by (dataset, name of the question).

    Raises UserError for a question that comes twice. If ``files`` are of several checkpoints, it lists those of each
    ``among`` the files that were given together (default: ``files``).
    """
    by_key: dict[QuestionKey, dict[str, Any]] = {}
    for file in files:
        for position, result in enumerate(file.document["results"]):
            key = file.dataset, question_name(result, position)
            if key in by_key:
                raise UserError(
                    f"result file {file.path}: question {key[1]} of {file.dataset} comes twice; "
                    f"{_one_run(among or files, with_controls=among is not None)}"
                )
            by_key[key] = result | {"dataset": file.dataset}
    return by_key


def _one_run(files: Sequence[ResultFile], with_controls: bool) -> str:
    """The remedy if files of several checkpoints, controls or decodings came as one run. ``with_controls`` if a run may
    come together with its controls."""
    groups: dict[str, list[str]] = {}
    for file in files:
        facts = [str(file.document.get("checkpoint", "unknown checkpoint"))]
        facts += [f"control {file.control}"] if file.control != NO_CONTROL and not with_controls else []
        facts += ["sampled"] if file.document.get("decoding") == "sampling" else []
        groups.setdefault(", ".join(facts), []).append(str(file.path))
    if len(groups) == 1:
        return "pass each file once"
    paths = [str(file.path) for file in files]
    listed = "; ".join(f"{name}: {_pattern(own, paths)}" for name, own in groups.items())
    return f"these files are of {len(groups)} evaluations, pass those of one ({listed})"


def _pattern(own: Sequence[str], among: Iterable[str]) -> str:
    """A quoted pattern that matches ``own`` and no others, or the files themselves if there is no such pattern."""
    before = _common_start(own)
    after = _common_start([path[len(before) :][::-1] for path in own])[::-1]
    pattern = own[0] if len(own) == 1 else f"{glob.escape(before)}*{glob.escape(after)}"
    matched = {path for path in among if path in own or fnmatch.fnmatchcase(path, pattern)}
    return f"'{pattern}'" if matched == set(own) else " ".join(f"'{path}'" for path in own)


def _common_start(texts: Sequence[str]) -> str:
    low, high = min(texts), max(texts)
    return low[: next((n for n, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), len(low))]


def _different_settings(runs: Sequence[EvaluatedRun]) -> str:
    """The settings in which runs differ from the first run that records its own, each with its values. "" for none."""
    first: dict[str, tuple[str, dict[str, Any]]] = {}
    differences: dict[str, str] = {}
    for run in runs:
        for document in run.documents:
            settings = document.get("settings")
            if not isinstance(settings, dict):
                continue
            name, known = first.setdefault(str(document.get("dataset")), (run.name, settings))
            other_images = known.get("control") != settings.get("control")  # and so another digest of the questions
            expected = EXPECTED_TO_DIFFER | ({"questions", "seed"} if other_images else set())
            for key in sorted((known.keys() | settings.keys()) - expected):
                if known.get(key) != settings.get(key):
                    words = f"{key} {known.get(key)!r} in {name}, {settings.get(key)!r} in {run.name}"
                    differences.setdefault(key, words)
    return "; ".join(differences.values())

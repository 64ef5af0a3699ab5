"""Jobs of an evaluation: one file of questions for one checkpoint each, and the answers that exist already."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from swift.evaluation.arguments import EvaluationArguments
from swift.evaluation.partial_results import (
    Partial,
    partial_answers_path,
    partial_answers_paths,
    read_partial,
    remove_partial,
)
from swift.evaluation.question_files import QuestionFile
from swift.evaluation.results import build_document
from swift.llm.checkpoint.folders import weight_digests
from swift.utils.digests import value_digest
from swift.utils.distributed import is_master
from swift.utils.errors import UserError
from swift.utils.files import try_read_json, write_json
from utils.get_knowledge_graph import extractor_name

FORMAT = 1  # of result and partial files; raised when older ones cannot be resumed


@dataclass(frozen=True)
class Progress:
    """The answers to a job's questions that exist on disk at one moment."""

    questions: QuestionFile
    partials: list[Partial]  # those of the job's settings

    @cached_property
    def rows(self) -> dict[int, dict[str, Any]]:
        """The existing answers by position. Answers to questions whose images have changed are left out."""
        digests = self.questions.digests
        rows: dict[int, dict[str, Any]] = {}
        for partial in self.partials:
            for index, row in partial.rows.items():
                if 0 <= index < len(digests) and row["question"] == digests[index]:
                    rows.setdefault(index, row)
        return rows

    @property
    def waiting(self) -> int:
        """Number of questions that have neither an answer nor a reason to be skipped."""
        return len(set(range(len(self.questions.records))) - self.rows.keys() - self.questions.skipped.keys())

    @property
    def skipped(self) -> dict[int, str]:
        """Reasons by position of the questions that are skipped."""
        return self.questions.skipped | {index: row["problem"] for index, row in self.rows.items() if "problem" in row}

    @property
    def batching(self) -> dict[str, Any] | None:
        """The batching with which the job was begun; None if it was not."""
        return self.partials[0].header["batching"] if self.partials else None


@dataclass(frozen=True)
class EvaluationJob:
    """One annotation file put to one checkpoint."""

    checkpoint: Path
    questions: QuestionFile
    result: Path
    settings: dict[str, Any]  # everything that decides the answers: flags, and digests of weights and questions
    images: str  # digest of the images shown
    given: bool  # texts of the questions are scored instead of written answers

    def progress(self) -> Progress:
        """Read the partial files of this job. Files of other settings are left out."""
        partials = [partial for _, partial in self._partials() if not self._differences(partial.header["settings"])]
        return Progress(self.questions, partials)

    def finished(self) -> bool:
        """True if the result file exists and has this job's settings.

        Raises UserError if it or a partial file has other settings, so that no answers are lost.
        """
        for path, partial in self._partials():
            if differences := self._differences(partial.header["settings"]):
                raise UserError(_in_the_way(path, differences))
        if not self.result.exists():
            return False
        document = try_read_json(self.result) or {}
        settings, images, extractor = (document.get(name) for name in ("settings", "images", "extractor"))
        if not isinstance(settings, dict):
            raise UserError(_in_the_way(self.result, ["no settings in it"]))
        differences = self._differences(settings)
        if images != self.images:
            differences.append("other images")
        if extractor not in (None, extractor_name()):
            differences.append(f"extractor {extractor}, now {extractor_name()}")
        if differences:
            raise UserError(_in_the_way(self.result, differences))
        return True

    def clear(self, part: tuple[int, int]) -> None:
        """Remove the answers of this part, or of all parts if there is only one, so that the job starts over.

        The result is removed too, since another part would take it for the new one. Raises UserError while a process
        writes to the answers.
        """
        for path in partial_answers_paths(self.result) if part[1] == 1 else [partial_answers_path(self.result, part)]:
            remove_partial(path)
        if is_master():  # another rank may arrive so late that the result is new
            for path in (self.result, self._run_file):
                path.unlink(missing_ok=True)

    def write_result(self, progress: Progress) -> dict[str, Any]:
        """Join the partial files into the result file and its ``.run.json``, and return the document.

        Raises UserError if every question was skipped.
        """
        skipped = progress.skipped
        answers = {index: row["answers"] for index, row in progress.rows.items() if index not in skipped}
        if not answers:
            reason = next(iter(skipped.values()))
            raise UserError(f"{self.questions.path}: every question was skipped, the first: {reason}")
        facts = {**progress.partials[0].header["facts"], "settings": self.settings, "images": self.images}
        document = build_document(facts, self.questions.records, answers, skipped, self.given, self.questions.malformed)
        runs = [run for partial in progress.partials for run in partial.runs]
        write_json(self._run_file, {"result": self.result.name, "runs": runs})
        write_json(self.result, document)
        self.remove_partials()
        return document

    def remove_partials(self) -> None:
        """Remove the partial files of all parts, once the result is there."""
        for path in partial_answers_paths(self.result):
            path.unlink(missing_ok=True)

    def finished_elsewhere(self) -> bool:
        """True if another part has written the result and removed the partial files."""
        return self.result.exists() and not partial_answers_paths(self.result)

    @property
    def _run_file(self) -> Path:
        return self.result.with_suffix(".run.json")

    def _partials(self) -> Iterator[tuple[Path, Partial]]:
        for path in partial_answers_paths(self.result):
            if (partial := read_partial(path)) is not None:
                yield path, partial

    def _differences(self, settings: Mapping[str, Any]) -> list[str]:
        """Differences between ``settings`` and this job's, each in words."""
        names = dict.fromkeys([*self.settings, *settings])
        return [
            f"{name} {settings.get(name)!r}, now {self.settings.get(name)!r}"
            for name in names
            if settings.get(name) != self.settings.get(name)
        ]


def _in_the_way(path: Path, differences: Sequence[str]) -> str:
    return (
        f"{path} holds answers of other settings ({'; '.join(differences)}); pass another --output_dir, or --resume "
        "false to replace them"
    )


def make_jobs(
    arguments: EvaluationArguments, checkpoints: Sequence[Path], files: Sequence[QuestionFile]
) -> list[EvaluationJob]:
    """Make a job for every file and checkpoint. Raises UserError if two of them would write the same result file."""
    jobs: dict[Path, EvaluationJob] = {}
    for checkpoint in checkpoints:
        weights = weight_digests(checkpoint, arguments.base_model_path)
        for questions in files:
            settings = {
                "format": FORMAT,
                "tokens": arguments.scores_tokens,
                "weights": weights,
                "questions": questions.digest,
                **arguments.decisive(),
            }
            result = result_path(checkpoint, questions, arguments)
            if result in jobs:
                raise UserError(
                    f"{checkpoint} and {jobs[result].checkpoint} would both write {result}; evaluate them into "
                    "different --output_dir"
                )
            images, given = value_digest(questions.digests), arguments.given is not None
            jobs[result] = EvaluationJob(checkpoint, questions, result, settings, images, given)
    return list(jobs.values())


def checkpoint_name(checkpoint: Path) -> str:
    """A checkpoint's name in result files. The name of a run stands before its ``checkpoint-N``."""
    checkpoint = checkpoint.resolve()
    in_run = checkpoint.name.startswith("checkpoint-")
    return f"{checkpoint.parent.name}-{checkpoint.name}" if in_run else checkpoint.name


def result_path(checkpoint: Path, questions: QuestionFile, arguments: EvaluationArguments) -> Path:
    """The result file of a job: ``<output_dir>/<checkpoint>_<dataset>_<processor source>_results.json``.

    The processor's source is ``checkpoint``, or ``base`` for an adapter without a tokenizer of its own. A control's
    name stands before ``results``, and ``sampled`` if the answers are not greedy. A file with token probabilities ends
    in ``token_prob``, after the field whose texts were given.
    """
    own = (checkpoint / "tokenizer_config.json").exists()
    parts = [checkpoint_name(checkpoint), questions.name, "checkpoint" if own else "base"]
    if arguments.control != "none":
        parts.append(arguments.control)
    if arguments.temperature > 0:
        parts.append("sampled")
    if arguments.given is not None:
        parts += ["given", arguments.given]
    parts.append("token_prob" if arguments.scores_tokens else "results")
    return Path(arguments.output_dir) / ("_".join(parts) + ".json")

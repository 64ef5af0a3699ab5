"""Controls of evaluated runs: found among the files of a run, named by a flag, or compared as runs of their own.

A control answers the questions of a run with blank images, or with those of other patients. It belongs to a run if
nothing but the images differs: checkpoint, settings of decoding and questions must be the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from swift.utils.errors import UserError
from tools.reports.result_files import (
    EXPECTED_TO_DIFFER,
    NO_CONTROL,
    EvaluatedRun,
    QuestionKey,
    ResultFile,
    align_runs,
    results_by_question,
)
from utils.questions import IMAGE_NAMES

SHOWN = "image_paths"  # the images that a result was answered with; all other fields of images name the question's own
FilesByRun = Mapping[str, Sequence[ResultFile]]


@dataclass(frozen=True)
class ControlRun:
    """Answers to the questions of a run under a control, in the order of the run's questions."""

    run: str
    control: str
    documents: list[dict[str, Any]]  # what the files say beside their results
    results: list[dict[str, Any] | None]  # None for a question that was skipped under the control

    @property
    def seeds(self) -> set[Any]:
        """The seeds that chose the other images."""
        return {document["settings"].get("seed") for document in self.documents if document.get("settings")}


def load_with_controls(
    files: FilesByRun, given: FilesByRun | None = None
) -> tuple[dict[str, EvaluatedRun], list[ControlRun]]:
    """Runs by name, and their controls in the order of the runs.

    Args:
        files: the files of each run. Those with other images are its controls, unless all of them have such images.
        given: further files of controls, by run.

    A run that has other images itself is also the control of a run with the same recorded weights and settings.

    Raises UserError as `align_runs` does, and for a control of another checkpoint, other settings or other questions.
    """
    own = {name: _split(name, members) for name, members in files.items()}
    for name, members in (given or {}).items():
        _check_given(name, members, own)
    runs = align_runs({name: main for name, (main, _) in own.items()})
    controls = []
    for name, run in runs.items():
        if own[name][0][0].control != NO_CONTROL:
            continue
        by_control = _by_control([*own[name][1], *(given or {}).get(name, ())])
        for control, members in by_control.items():
            controls.append(_control_run(run, control, members))
        for other, (main, _) in own.items():
            control = main[0].control
            if control not in (NO_CONTROL, *by_control) and _is_control_of(run, main):
                by_control[control] = main
                controls.append(_control_run(runs[name], control, main, other))
    return runs, controls


def _split(name: str, files: Sequence[ResultFile]) -> tuple[Sequence[ResultFile], Sequence[ResultFile]]:
    """The files of a run that make its own answers, and those of its controls. Raises UserError if all files are
    controls, of several kinds."""
    by_control = _by_control(files)
    if NO_CONTROL not in by_control:
        if len(by_control) > 1:
            raise UserError(
                f"the files of {name} are controls ({', '.join(by_control)}) and none has the answers with the real "
                "images; add these, or pass the files of one control"
            )
        return files, ()
    results_by_question(by_control[NO_CONTROL], among=files)
    return by_control[NO_CONTROL], [file for file in files if file.control != NO_CONTROL]


def _by_control(files: Sequence[ResultFile]) -> dict[str, list[ResultFile]]:
    by_control: dict[str, list[ResultFile]] = {}
    for file in files:
        by_control.setdefault(file.control, []).append(file)
    return by_control


def _check_given(name: str, files: Sequence[ResultFile], own: Mapping[str, tuple[Sequence[ResultFile], Any]]) -> None:
    """Raise UserError for controls of no run, or of a run that is a control itself, and for files that are none."""
    if name not in own:
        raise UserError(f"--control {name} names no run ({', '.join(own)}); name one of them")
    if (control := own[name][0][0].control) != NO_CONTROL:
        raise UserError(f"--control {name}: the run is a control itself ({control}); name the run with the real images")
    for file in files:
        if file.control == NO_CONTROL:
            raise UserError(
                f"--control {name}: {file.path} was answered with the real images; name a file that evaluate.py wrote "
                "with --control blank or shuffled"
            )


def _control_run(run: EvaluatedRun, control: str, files: Sequence[ResultFile], named: str | None = None) -> ControlRun:
    """The control of a run. ``named`` is the run whose files these are, if they were compared under a name of their
    own. Raises UserError if they do not belong to the run."""
    for file in files:
        if problem := _other_evaluation(run, file):
            raise UserError(f"{file.path} is not a control of {run.name}: {problem}")
    by_key = results_by_question(files)
    if problem := _other_questions(run, by_key, [file.facts for file in files]):
        raise UserError(f"control {control} of {named or run.name} ({files[0].path}): {problem}")
    return ControlRun(run.name, control, [file.facts for file in files], [by_key.get(key) for key in run.keys])


def _is_control_of(run: EvaluatedRun, files: Sequence[ResultFile]) -> bool:
    """True if runs that are compared under names of their own have the same weights and settings, as far as they
    recorded them, and other images. Without recorded weights they do not belong together."""
    known = all(_settings(file.document).get("weights") for file in files)
    by_key = results_by_question(files)
    return (
        known
        and not any(_other_evaluation(run, file) for file in files)
        and not _other_questions(run, by_key, [file.facts for file in files])
    )


def _other_evaluation(run: EvaluatedRun, file: ResultFile) -> str | None:
    """The first difference in checkpoint or settings between a run and a file of a control, in words with its remedy.
    None if there is none, or if the run has no file of these questions."""
    facts = next((facts for facts in run.documents if facts.get("dataset", file.dataset) == file.dataset), None)
    if facts is None:
        return None
    weights, others = _settings(facts).get("weights"), _settings(file.document).get("weights")
    names = facts.get("checkpoint"), file.document.get("checkpoint")
    same = weights == others if weights and others else names[0] == names[1]
    if not same:
        return (
            f"it is of another checkpoint ({names[1]}, weights {_short(others)}; the run: {names[0]}, weights "
            f"{_short(weights)}); pass the control of this checkpoint"
        )
    for name, here, there in _differences(facts, file.document):
        return f"it was decoded with {name} {there!r}, the run with {here!r}; evaluate both with the same flags"
    return None


def _differences(facts: Mapping[str, Any], others: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Settings of decoding that differ, each with its two values. Settings that only one of the files records are not
    compared, since older files record fewer."""
    for name in ("decoding", "dynamic_hd"):  # as they were in effect, whatever flag led to them
        if name in facts and name in others and facts[name] != others[name]:
            yield name, facts[name], others[name]
    here, there = _settings(facts), _settings(others)
    if not here or not there:
        return
    sampled = here.get("temperature", 0) > 0
    expected = EXPECTED_TO_DIFFER | {"weights", "questions", "dynamic_hd"} | (set() if sampled else {"seed"})
    for name in sorted((here.keys() | there.keys()) - expected):
        if here.get(name) != there.get(name):
            yield name, here.get(name), there.get(name)


def _other_questions(
    run: EvaluatedRun, by_key: Mapping[QuestionKey, Mapping[str, Any]], documents: Sequence[Mapping[str, Any]]
) -> str | None:
    """The first question that only one of the two has, or that the two have in different words, with the remedy. A
    question that one of them lists as skipped may be missing there. None if the questions are the same."""
    missing = set(run.keys) - by_key.keys() - _skipped(documents)
    further = by_key.keys() - set(run.keys) - _skipped(run.documents)
    if differing := missing or further:
        dataset, question = min(differing)
        return (
            f"question {question} of {dataset} is {'missing in it' if missing else f'not among those of {run.name}'}; "
            "evaluate both over the same annotation files and --max_samples"
        )
    for key, result in zip(run.keys, run.results, strict=True):
        if key in by_key and _wording(result) != _wording(by_key[key]):
            return (
                f"question {key[1]} of {key[0]} is not the same as in {run.name}; evaluate both over the same version "
                "of the annotation file"
            )
    return None


def _wording(result: Mapping[str, Any]) -> list[Any]:
    """The fields that make a question: its text, its answer, and the images that it is about."""
    answer = result.get("answer")
    fields = (result.get(name) for name in IMAGE_NAMES if name != SHOWN)
    return [result["question"], result.get("explanation") if answer is None else answer, *fields]


def _skipped(documents: Sequence[Mapping[str, Any]]) -> set[QuestionKey]:
    return {
        (str(document.get("dataset")), str(entry.get("id")))
        for document in documents
        for entry in document.get("skipped") or ()
    }


def _settings(document: Mapping[str, Any]) -> Mapping[str, Any]:
    settings = document.get("settings")
    return settings if isinstance(settings, Mapping) else {}


def _short(weights: Any) -> str:
    return " ".join(str(digest)[:8] for digest in weights) if weights else "unknown"

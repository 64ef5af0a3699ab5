"""Patients of the evaluation questions, which must not be trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from swift.llm.records.files import record_files
from swift.utils.errors import UserError
from tools.samples.pools import Questions, evaluation_patients
from utils.questions import patient_of

SHARED_PATIENTS = ("refuse", "exclude", "allow")


@dataclass(frozen=True)
class EvaluationGuard:
    """Evaluation files, the patients in them, and what to do with pool items about these patients."""

    files: list[Path]
    patients: frozenset[str]
    shared: str  # refuse, exclude, or allow

    @property
    def left_out(self) -> frozenset[str]:
        """Patients whose items are left out of the pools."""
        return self.patients if self.shared == "exclude" else frozenset()

    def check(self, questions: Sequence[Questions]) -> None:
        """Raise UserError if a pool holds items about a patient of the evaluation, or about an unknown one."""
        if self.shared == "allow":
            return
        forbidden = self.patients - self.left_out
        for part in questions:
            for item, place in zip(part.items, part.places, strict=True):
                if patient_of(item) is None:
                    raise UserError(
                        f"{place}: field 'subject_id' is missing, so nobody knows if evaluation shares its patient; "
                        "add it, or pass --shared_patients allow"
                    )
            shared = [item for item in part.items if patient_of(item) in forbidden]
            if shared:
                raise UserError(
                    f"pool {part.source.name}: {len(shared)} of {len(part.items)} items are about "
                    f"{len(set(map(patient_of, shared)))} patients of the evaluation questions (e.g. "
                    f"{patient_of(shared[0])}); pass --shared_patients exclude to leave them out, or allow to train on "
                    "them"
                )


def read_guard(places: Sequence[Path], shared: str) -> EvaluationGuard:
    """Read the patients of evaluation files, or of all files of records in folders.

    Raises UserError if there are no files and ``shared`` is not "allow", because shared patients cannot be found then.
    """
    files = [file for place in places for file in (record_files(place) if place.is_dir() else [place])]
    present = [file for file in files if file.is_file()]
    if shared == "allow":
        return EvaluationGuard(present, frozenset(), shared)
    if not files or len(present) < len(files):
        missing = next((file for file in files if not file.is_file()), places[0])
        raise UserError(
            f"evaluation questions {missing} do not exist, so shared patients cannot be found; "
            "name them with --eval, or pass --shared_patients allow"
        )
    return EvaluationGuard(files, evaluation_patients(files), shared)

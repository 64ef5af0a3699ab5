"""Readers of public data sets, from the files as they are downloaded.

    vqa-rad          "VQA_RAD Dataset Public.json" with "VQA_RAD Image Folder", or trainset.json and testset.json
    slake            train.json, validate.json and test.json with imgs/
    mimic-cxr-vqa    train.json, valid.json and test.json of MIMIC-Ext-MIMIC-CXR-VQA, with the images of MIMIC-CXR-JPG
                     and, if they are there, the reports of MIMIC-CXR, which give explanations

No image is opened and nothing is downloaded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swift.llm.dataset import ReadingRules
from swift.utils.errors import UserError
from tools.datasets.layout import (
    SourceData,
    SourceRecord,
    find_image_folder,
    find_split_files,
    read_objects,
    source_folders,
    split_answers,
)
from utils.mimic import read_reports, study_key
from utils.questions import patient_of

SECTIONED = "mimic_cxr_sectioned.csv"  # MIMIC's own table of report sections


@dataclass(frozen=True)
class SourceFolders:
    """The folder of a data set as downloaded, and folders of images and reports if they are elsewhere."""

    source: Path
    images: Path | None = None
    reports: Path | None = None
    language: str = "en"  # of SLAKE's questions; all for every language
    reading: ReadingRules = field(default_factory=ReadingRules)

    def image_folders(self) -> Iterator[Path]:
        """Folders that may hold the images."""
        return source_folders(self.source if self.images is None else self.images)


def read_vqa_rad(folders: SourceFolders) -> SourceData:
    """VQA-RAD. Its test split is the records whose ``phrase_type`` begins with "test"; a case is a patient."""
    names = {
        "train": ("VQA_RAD Dataset Public.json", "trainset.json", "train.json"),
        "test": ("testset.json", "test.json"),
    }
    files = find_split_files(folders.source, names)
    splits: dict[str, list[SourceRecord]] = {"train": [], "test": []}
    for split, path in files.items():
        for item in read_objects(path):
            told = str(item.get("phrase_type") or "")
            splits["test" if told.startswith("test") else split].append(_vqa_rad_record(item))
    return _whole("vqa-rad", splits, folders)


def _vqa_rad_record(item: SourceRecord) -> SourceRecord:
    case = re.search(r"(?:[?&]id=|case/)([\w-]+)", str(item.get("image_case_url") or ""))
    return {
        "image": item.get("image_name"),
        **_asked(item),
        "idx": item.get("qid"),
        **({"subject_id": case[1]} if case else {}),
        **_kept(item, ("question_type", "answer_type", "phrase_type", "image_organ")),
    }


def read_slake(folders: SourceFolders) -> SourceData:
    """SLAKE, in the language of ``folders``. ``content_type`` is the kind of a question."""
    names = {"train": ("train.json",), "valid": ("validate.json", "validation.json"), "test": ("test.json",)}
    splits = {
        split: [_slake_record(item) for item in read_objects(path) if _speaks(item, folders.language)]
        for split, path in find_split_files(folders.source, names).items()
    }
    return _whole("slake", splits, folders)


def _speaks(item: SourceRecord, language: str) -> bool:
    return language == "all" or item.get("q_lang", language) == language


def _slake_record(item: SourceRecord) -> SourceRecord:
    return {
        "image": item.get("img_name"),
        **_asked(item),
        "idx": item.get("qid"),
        "question_type": item.get("content_type"),
        **_kept(item, ("answer_type", "base_type", "modality", "location", "q_lang")),
    }


def read_mimic_cxr_vqa(folders: SourceFolders) -> SourceData:
    """MIMIC-CXR-VQA. With reports, the findings of a question's study are its explanation."""
    names = {split: (f"{split}.json",) for split in ("train", "valid", "test")}
    files = find_split_files(folders.source, names)
    splits = {split: [_mimic_record(item) for item in read_objects(path)] for split, path in files.items()}
    records = [record for split in splits.values() for record in split]
    reports = folders.reports or _find_reports(folders.source, records)
    if reports is None:
        return _whole("mimic-cxr-vqa", splits, folders, ["no reports were found, so there are no explanations"])
    try:
        texts = read_reports(reports, [record.get("study_id") for record in records])
    except ValueError as error:
        raise UserError(str(error)) from error
    for record in records:
        if findings := " ".join(texts.get(study_key(record.get("study_id")), "").split()):
            answer = ", ".join(record.get("answer", ()))
            record["explanation"] = f"<think>{findings}</think><answer>{answer}</answer>"
    return _whole("mimic-cxr-vqa", splits, folders, [f"explanations are the findings of the reports in {reports}"])


def _mimic_record(item: SourceRecord) -> SourceRecord:
    kept = ("subject_id", "study_id", "semantic_type", "content_type", "template", "image_id")
    image = item.get("image_path") or item.get("image_id")
    return {"image": image, **_asked(item), "idx": item.get("idx"), **_kept(item, kept)}


def _find_reports(source: Path, records: Sequence[SourceRecord]) -> Path | None:
    """MIMIC's reports in the folders of the source: the table of sections, or the tree of texts."""
    named = [record for record in records if (patient_of(record) or "").isdigit() and record.get("study_id")][:3]
    for folder in source_folders(source):
        if (folder / SECTIONED).is_file():
            return folder / SECTIONED
        for record in named:
            patient = patient_of(record)
            if (folder / f"p{patient[:2]}" / f"p{patient}" / f"s{study_key(record['study_id'])}.txt").is_file():
                return folder
    return None


def _asked(item: SourceRecord) -> SourceRecord:
    """Question and answers; without an answer if there is none. An empty list is one: there is nothing to name."""
    answer = item.get("answer")
    answered = {} if answer in (None, "") else {"answer": split_answers(answer)}
    return {"question": item.get("question"), **answered}


def _kept(item: SourceRecord, names: Sequence[str]) -> dict[str, Any]:
    stripped = {name: value.strip() if isinstance(value := item.get(name), str) else value for name in names}
    return {name: value for name, value in stripped.items() if value is not None}


def _whole(
    name: str, splits: dict[str, list[SourceRecord]], folders: SourceFolders, notes: Sequence[str] = ()
) -> SourceData:
    """The data set of these splits, with a name for each question that has none, and without questions that nobody
    answered. Raises UserError if a split is empty."""
    notes = list(notes)
    for split, records in splits.items():
        if unanswered := sum("answer" not in record for record in records):
            notes.append(f"{unanswered} questions of {split} have no answer and are left out")
            records[:] = [record for record in records if "answer" in record]
        if not records:
            raise UserError(f"{folders.source}: {name} has no records for {split}; download its files again")
        _name_questions(split, records)
    every = [record for records in splits.values() for record in records]
    return SourceData(splits, find_image_folder(folders.image_folders(), every, folders.reading), notes)


def _name_questions(split: str, records: Sequence[SourceRecord]) -> None:
    """Give each question that has no name of its own one made of its split and place, since results are told apart by
    it."""
    taken: set[str] = set()
    for position, record in enumerate(records):
        if record["idx"] is None or str(record["idx"]) in taken:
            record["idx"] = f"{split}-{position}"
        taken.add(str(record["idx"]))


SOURCES: dict[str, Callable[[SourceFolders], SourceData]] = {
    "vqa-rad": read_vqa_rad,
    "mimic-cxr-vqa": read_mimic_cxr_vqa,
    "slake": read_slake,
}

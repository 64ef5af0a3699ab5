"""Small data sets in the layouts of public ones as they are downloaded. Pictures and texts are made up."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.builders import random_image

CASES = 4  # images per split


def _picture(path: Path, generator: np.random.Generator) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    random_image(generator, (56, 84)).convert("L").save(path)


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows, indent=1))


def write_vqa_rad(folder: Path) -> Path:
    """One JSON list with both splits, told apart by phrase_type, and a folder of JPEG files."""
    generator, rows = np.random.default_rng(0), []
    for case in range(2 * CASES):
        name = f"synpic{case:05d}.jpg"
        _picture(folder / "VQA_RAD Image Folder" / name, generator)
        common = {
            "image_name": name,
            "image_case_url": f"https://medpix.example/case/{case:04d}",
            "image_organ": "CHEST",
            "phrase_type": "freeform" if case < CASES else "test_freeform",
            "answer_type": "CLOSED",
        }
        asked = [("PRES", "Is there a pleural effusion?", "Yes"), ("COUNT", "How many nodules are there?", 3)]
        for kind, question, answer in asked:
            rows.append(common | {"qid": len(rows), "question_type": kind, "question": question, "answer": answer})
    _write(folder / "VQA_RAD Dataset Public.json", rows)
    return folder


def write_slake(folder: Path) -> Path:
    """A JSON list per split, in two languages, and a folder of images for each image."""
    generator, number = np.random.default_rng(0), 0
    for split in ("train", "validate", "test"):
        rows = []
        for _ in range(CASES):
            name = f"xmlab{number}/source.jpg"
            _picture(folder / "imgs" / name, generator)
            common = {"img_id": number, "img_name": name, "modality": "X-Ray", "location": "Lung", "triple": ["vhead"]}
            for language, question, answer in (("en", "Does the lung look healthy?", "No"), ("zh", "?", "-")):
                own = {"qid": 10 * number + len(rows), "q_lang": language, "question": question, "answer": answer}
                rows.append(common | own | {"content_type": "Abnormality", "answer_type": "CLOSED", "base_type": "vqa"})
            number += 1
        _write(folder / f"{split}.json", rows)
    return folder


def _studies() -> Iterator[tuple[str, int, int, str]]:
    """Split, patient, study and image of each study."""
    for number in range(3 * CASES):
        name = f"{number:08x}-bde0afdd-112c0b34-7bc16630-4e384014"
        yield ("train", "valid", "test")[number // CASES], 10000032 + number, 50414267 + number, name


def write_mimic(folder: Path) -> Path:
    """The questions, MIMIC-CXR-JPG's tree of images and MIMIC-CXR's tree of reports, side by side."""
    generator = np.random.default_rng(0)
    splits: dict[str, list[dict[str, Any]]] = {"train": [], "valid": [], "test": []}
    for split, patient, study, name in _studies():
        place = f"p{str(patient)[:2]}/p{patient}/s{study}"
        _picture(folder / "mimic-cxr-jpg" / "files" / place / f"{name}.jpg", generator)
        report = folder / "mimic-cxr-reports" / "files" / f"{place}.txt"
        report.parent.mkdir(parents=True, exist_ok=True)
        report.write_text("FINAL REPORT\nFINDINGS:\nThere is a small left\npleural effusion.\n")
        common = {"subject_id": patient, "study_id": study, "image_id": name, "image_path": f"{place}/{name}.jpg"}
        asked = [("verify", "Is there a pleural effusion?", ["yes"]), ("query", "List all devices.", [])]
        for kind, question, answer in asked:
            own = {"idx": len(splits[split]), "split": split, "question": question, "answer": answer}
            splits[split].append(common | own | {"semantic_type": kind, "content_type": "presence"})
    for split, rows in splits.items():
        _write(folder / "MIMIC-Ext-MIMIC-CXR-VQA" / "dataset" / f"{split}.json", rows)
    return folder


def write_sections(path: Path) -> Path:
    """MIMIC's table of report sections for the studies of `write_mimic`."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["study", "impression", "findings", "last_paragraph", "comparison"])
        writer.writerows([[f"s{study}", "", "The heart is enlarged.", "", ""] for _, _, study, _ in _studies()])
    return path


LAYOUTS = {"vqa-rad": write_vqa_rad, "slake": write_slake, "mimic-cxr-vqa": write_mimic}

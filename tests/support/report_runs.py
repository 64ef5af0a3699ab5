"""Result files of three small runs, as evaluate.py leaves them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

TRUTH = "<think>There is a small left pleural effusion.</think><answer>yes</answer>"
WRONG = "<think>There is no pleural effusion. The heart is large.</think><answer>no</answer>"


def result(number: int, text: str, image: Path | str, **fields: Any) -> dict[str, Any]:
    """One question about an effusion; two to a patient."""
    return {
        "id": number,
        "idx": number,
        "subject_id": f"p{number // 2}",
        "question": "Is there an effusion?",
        "answer": ["yes"],
        "explanation": TRUTH,
        "semantic_type": "verify",
        "generated_text": text,
        "num_tokens": 10 + number,
        "image_paths": [str(image)],
        **fields,
    }


def write_runs(folder: Path) -> dict[str, Path]:
    """Three runs over 6 questions about 3 patients: SFT has 3 right, GRPO 5, blind 2. Their one image would be a drawn
    one if a manifest lay in ``world``."""
    picture = folder / "world" / "images" / "demo-1.png"
    picture.parent.mkdir(parents=True)
    Image.new("L", (640, 480), 90).save(picture)
    right = {"sft": {0, 1, 2}, "grpo": {0, 1, 3, 4, 5}, "blind": {4, 5}}
    paths = {}
    for run, numbers in right.items():
        results = [result(n, TRUTH if n in numbers else WRONG, picture) for n in range(6)]
        paths[run] = write(folder / f"{run}.json", results)
    return paths


def write(path: Path, results: list[dict[str, Any]], dataset: str = "test_basic_vqa", **facts: Any) -> Path:
    """A result file with further facts; unless they name a checkpoint, it is called like the file."""
    document = {"dataset": dataset, "checkpoint": path.stem, **facts, "results": results}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def write_look(folder: Path, policy: str, control: str, right: set[int], **changes: Any) -> Path:
    """The answers of a policy to 6 questions about 3 patients under a control ("none" for the real images), as
    evaluate.py leaves them; ``right`` are the questions that it has right. ``changes`` are settings."""
    settings = {"weights": [f"w-{policy}"], "control": control, "seed": 0, "temperature": 0.0, "max_new_tokens": 64}
    images = {"none": "{}.png", "blank": "", "shuffled": "other-{}.png"}[control]
    results = [
        result(n, TRUTH if n in right else WRONG, images.format(n), image_ids=[str(n)], content_type="ab"[n % 2])
        for n in range(6)
    ]
    name = f"{policy}_basic_{'' if control == 'none' else f'{control}_'}results.json"
    return write(
        folder / name, results, checkpoint=policy, control=control, decoding="greedy", settings=settings | changes
    )


def run_flags(files: dict[str, Path], output: Path, *flags: str) -> list[str]:
    """Flags of `tools.compare_results` for runs named by --sft, --grpo and --blind."""
    runs = [word for name, path in files.items() for word in (f"--{name}", str(path))]
    return [*runs, "--output", str(output), *flags]

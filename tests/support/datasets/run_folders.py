"""A folder as work with credentialed data leaves it: a GRPO run, its evaluation and audit, a sweep, samples and logs.

Questions, texts and identifiers are made up, in the forms of MIMIC-CXR. Every text is one of a kind, so that a search
for it proves something.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from evaluate import main as evaluate
from evaluate_token_prob import main as evaluate_tokens
from swift.cli.rlhf import main as train
from tests.support.builders import rlhf_command
from tools import evaluation_report, summarize, training_report
from tools.kg_audit import commands

PATIENTS = ("10000032", "10000764", "10000980")
FINDINGS = ("a small left pleural effusion", "mild cardiomegaly", "an opacity in the right lower lobe")
ANSWERS = ("pleural effusion", "cardiomegaly", "opacity")


def write_questions(folder: Path) -> Path:
    """Six questions about three patients with their images and reports, and training records of the same."""
    questions, records = [], []
    for number in range(6):
        place = number % 3
        patient, study = PATIENTS[place], f"5041426{number}"
        image = f"02aa804e-bde0afdd-112c0b34-7bc16630-4e38401{number}"
        path = Path("p10", f"p{patient}", f"s{study}", f"{image}.jpg")
        text = (
            f"<think>Film {number} of Mrs Quintessa shows {FINDINGS[place]}.</think><answer>{ANSWERS[place]}</answer>"
        )
        ask = f"What abnormality does film number {number} of the ward show?"
        (folder / "images" / path).parent.mkdir(parents=True)
        pixels = np.random.default_rng(number).integers(0, 255, (56, 56), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / path)
        report = folder / "reports" / f"s{study}.txt"
        report.parent.mkdir(exist_ok=True)
        report.write_text(f"FINDINGS: Report {number}. There is {FINDINGS[place]}.\n")
        own = {"idx": f"vqa-{number}-xk", "subject_id": int(patient), "study_id": study}
        kinds = {"semantic_type": "query", "content_type": "abnormality", "question_type": f"ward question {place}"}
        questions.append(
            {"question": ask, "answer": [ANSWERS[place]], "image_path": str(path), "explanation": text, **own, **kinds}
        )
        messages = [{"role": "user", "content": ask}]
        records.append({"images": [str(path)], "messages": messages, "solution": text, **own, "answer": ["yes"]})
    (folder / "ward_questions.json").write_text(json.dumps(questions))
    (folder / "train.json").write_text(json.dumps(records))
    return folder


def write_run_folder(world: Path, folder: Path) -> Path:
    """Everything below ``folder``/work. ``world`` has the tiny policy."""
    data = write_questions(folder / "data of St Elsewhere")
    work = folder / "work"
    command = rlhf_command(world, work / "first run", dataset=data / "train.json", max_steps=2, profile_steps=1,
                           reward_funcs=["external_r1v_acc", "vowels"], report_to="tensorboard",
                           image_root=data / "images")  # fmt: skip
    assert train(command) == 0
    flags = ["--model_path", work / "first run", "--annotation_file", data / "ward_questions.json", "--img_root",
             data / "images", "--output_dir", work / "result", "--max_new_tokens", "6"]  # fmt: skip
    words = list(map(str, flags))
    assert evaluate(words) == 0
    assert evaluate([*words, "--control", "shuffled"]) == 0
    assert evaluate_tokens([*words, "--top_k_alternatives", "2"]) == 0
    (tokens,) = (work / "result").glob("*_token_prob.json")
    audited = ["--output_dir", str(work / "result" / "kg"), "--results", str(tokens)]
    assert commands.report_graphs(["--reports", str(data / "reports"), *audited]) == 0
    assert commands.hallucination_audit(audited) == 0
    assert evaluation_report.main([str(work / "result"), "--output", str(work / "result" / "report")]) == 0
    assert training_report.main([str(work / "first run"), "--output", str(work / "first run")]) == 0
    write_sweep(work)
    samples = work / "samples"
    samples.mkdir()
    shutil.copy(data / "train.json", samples / "6.json")
    shutil.copytree(data / "images", work / "some images")
    (work / "run.log").write_text(f"reading {data}/train.json\n")
    (work / "cache.pkl").write_bytes(b"pickled: Mrs Quintessa")
    return work


def write_sweep(work: Path) -> None:
    """A sweep of two seeds, one of them without an evaluation, around the results of the run."""
    sweep, runs = work / "sweep of the ward", {}
    for seed in ("0", "1"):
        tag = f"ward_6_seed{seed}"
        shutil.copytree(work / "first run", sweep / tag, ignore=shutil.ignore_patterns("runs", "*.html"))
        (result,) = (path for path in (work / "result").glob("*_results.json") if "shuffled" not in path.name)
        (sweep / tag / "eval").mkdir()
        if seed == "0":
            shutil.copy(result, sweep / tag / "eval")
        entry = {"tag": tag, "folder": tag, "seed": seed, "policy": "hard_uniform", "size": "6", "generations": "4",
                 "learning_rate": "1e-2", "beta": "0.5", "rewards": "external_r1v_acc vowels"}  # fmt: skip
        done = {"flags": {"max_new_tokens": ["6"], "dataset_folder": [str(work)]}, "checkpoint": "checkpoint-2"}
        record = {**entry, "data": str(work), "data_sha256": "a" * 64}
        evaluation = {"evaluation": done | {"files": [result.name]}} if seed == "0" else {}
        (sweep / tag / "run.json").write_text(json.dumps(record | evaluation))
        status = {"status": "finished", "reason": ""} if seed == "0" else {"status": "failed", "reason": f"no {work}"}
        runs[tag] = entry | status | {"log": str(work / "run.log")}
    (sweep / "sweep.json").write_text(json.dumps({"runs": runs}))
    assert summarize.main([str(sweep)]) == 0

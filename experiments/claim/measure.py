"""Measure trained policies: answers at home, in the shifted world, on blank and on other patients' images, and samples.

    python -m experiments.claim.measure                      every finished run of the plan that is not measured yet
    python -m experiments.claim.measure start sft-seed1      these runs
    python -m experiments.claim.measure --part 1/2           every second of them, for two processes side by side

Answers with their texts go to <run>/measure/, from which a killed measurement resumes. The table of a run goes to
experiments/claim/results/<tag>.csv.gz. A run with a table is not measured again, unless its weights are others.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.claim.plan import CellRun, ClaimPlan, plan_parser, read_plan
from experiments.claim.runs import finished_checkpoint, run_folder, run_record
from experiments.claim.tables import (
    ANSWERED,
    CONDITIONS,
    HOME,
    SHIFTED,
    AskedQuestion,
    read_asked_questions,
    read_run_table,
    write_asked_questions,
    write_records,
    write_run_table,
)
from experiments.claim.truth import Judgment, judge_reasonings, read_studies
from swift.evaluation.arguments import EvaluationArguments
from swift.evaluation.question_files import SWEEP
from swift.evaluation.run import run_evaluation
from swift.utils.errors import UserError, reports_user_errors
from swift.utils.files import read_json
from swift.utils.logger import get_logger
from tools.demo_world.facts import Study
from utils.get_knowledge_graph import extractor_name, finding_reader
from utils.metrics import ACCURACY_RULES, TRAINING_RULE, question_metrics, reference_answers
from utils.questions import patient_of

logger = get_logger()


def measure_run(plan: ClaimPlan, run: CellRun, checkpoint: Path, results: Path) -> None:
    """Answer the questions of all conditions with a policy, and write its table."""
    record = run_record(plan, run, checkpoint) | {"extractor": extractor_name()}
    rows: list[tuple[str, str, dict[str, float]]] = []
    asked: dict[str, list[AskedQuestion]] = {HOME: [], SHIFTED: []}
    for condition, world in CONDITIONS.items():
        folder = checkpoint.parent / "measure" / condition
        run_evaluation(evaluation_arguments(plan, condition, checkpoint, folder))
        studies = read_studies(plan.world(world))
        for answers in _result_documents(folder):
            figures = sampled_figures(answers) if condition == "sampled" else answer_figures(answers, studies)
            names = [str(answer["id"]) for answer in answers["results"]]
            rows += [(condition, name, row) for name, row in zip(names, figures, strict=True)]
            if condition in asked:
                asked[world] += [_asked(world, answers["dataset"], answer) for answer in answers["results"]]
    write_asked_questions(results, [*asked[HOME], *asked[SHIFTED]])
    write_run_table(results, record, rows)


def evaluation_arguments(plan: ClaimPlan, condition: str, checkpoint: Path, folder: Path) -> EvaluationArguments:
    """The evaluation of a condition."""
    settings = plan["measurement"]
    counts = {"sampled": "sampled_questions", HOME: "questions", SHIFTED: "questions"}
    drawn = {"num_samples": settings["samples"], "temperature": settings["temperature"]}
    return EvaluationArguments(
        model_path=[str(checkpoint)],
        dataset_folder=str(plan.world(CONDITIONS[condition])),
        output_dir=str(folder),
        max_samples=settings[counts.get(condition, "control_questions")],
        max_new_tokens=settings["new_tokens"],
        batch_size=str(settings["batch"]),
        control=condition if condition in ("blank", "shuffled") else "none",
        no_tqdm=True,
        **(drawn if condition == "sampled" else {}),
    )


def answer_figures(document: Mapping[str, Any], studies: Mapping[str, Study]) -> list[dict[str, float]]:
    """The figures of each answer of a result file. Questions about one image are held against the drawn truth."""
    answers = document["results"]
    metrics = question_metrics(answers)
    rows = [
        {name: float(metrics[name][place]) for name in ANSWERED if name in metrics} for place in range(len(answers))
    ]
    single = [place for place, answer in enumerate(answers) if len(answer["image_ids"]) == 1]
    judgments = judge_reasonings(
        [answers[place]["generated_text"] for place in single],
        [studies[answers[place]["image_ids"][0]] for place in single],
        finding_reader(),
    )
    for place, judgment in zip(single, judgments, strict=True):
        rows[place] |= _judged(judgment)
    return rows


def _judged(judgment: Judgment) -> dict[str, float]:
    return {**vars(judgment), "sound": float(judgment.is_sound)}


def sampled_figures(document: Mapping[str, Any]) -> list[dict[str, float]]:
    """The number of samples of each question, and how many of them are right."""
    rows = []
    for answer in document["results"]:
        texts, truth = [sample["generated_text"] for sample in answer["samples"]], reference_answers(answer)
        right = {
            name: sum(ACCURACY_RULES[name](text, truth) for text in texts) for name in (TRAINING_RULE, "exact_set")
        }
        rows.append({"samples": len(texts), "right": right[TRAINING_RULE], "right_exact": right["exact_set"]})
    return rows


def _asked(world: str, dataset: str, answer: Mapping[str, Any]) -> AskedQuestion:
    file = dataset.removeprefix("test_").removesuffix("_vqa")
    kinds = answer["question_type"], answer["semantic_type"]
    truth = reference_answers(answer)
    yes_or_no = next((said for said in ("yes", "no") if truth == {said}), "")
    return AskedQuestion(
        world, str(answer["id"]), patient_of(answer) or "", file, *kinds, str(len(answer["image_ids"])), yes_or_no
    )


def _result_documents(folder: Path) -> Iterator[dict[str, Any]]:
    """The result files of one condition, in the order of their questions."""
    for name in SWEEP:
        for path in folder.glob(f"*_{name.removesuffix('.json')}_*.json"):
            if path.name.endswith("_results.json"):
                yield read_json(path, "measure the run again")


def waiting_runs(plan: ClaimPlan, tags: Sequence[str], results: Path) -> list[tuple[CellRun, Path]]:
    """Those of the runs that are finished and not measured, with their checkpoints. Without tags, of all runs.

    Raises UserError if a named run is unknown or not finished.
    """
    runs = {run.tag: run for run in plan.runs()}
    if unknown := [tag for tag in tags if tag not in runs]:
        raise UserError(f"{unknown[0]} is not a run of the plan; name one of {', '.join(list(runs)[:4])} ...")
    waiting = []
    for tag in tags or runs:
        checkpoint = finished_checkpoint(run_folder(plan, runs[tag]))
        if checkpoint is None and tags:
            raise UserError(f"{tag} is not finished; train it first, with experiments/claim/run.sh")
        if checkpoint is not None and not is_measured(plan, runs[tag], checkpoint, results):
            waiting.append((runs[tag], checkpoint))
    return waiting


def is_measured(plan: ClaimPlan, run: CellRun, checkpoint: Path, results: Path) -> bool:
    """True if the results hold the run's table, of the same weights and settings.

    Raises UserError if they hold another policy's under its name.
    """
    if not (results / f"{run.tag}.csv.gz").exists():
        return False
    known = read_run_table(results, run.tag, read_asked_questions(results)).record
    now = run_record(plan, run, checkpoint)
    for name in ("weights", "settings_digest", "measurement"):
        if known[name] != now[name]:
            raise UserError(
                f"{results / run.tag}.csv.gz is of other {name} than {checkpoint}; remove it to measure the run again"
            )
    return True


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Flags of the command."""
    parser = plan_parser("measure", "Measure trained policies.")
    parser.add_argument("runs", nargs="*", metavar="TAG", help="runs to measure (default: all that wait for it)")
    parser.add_argument("--part", default="1/1", metavar="I/N", help="measure the I-th of N parts (default: 1/1)")
    arguments = parser.parse_args(argv)
    numbers = re.fullmatch(r"(\d+)/(\d+)", arguments.part)
    if not numbers or not 1 <= int(numbers[1]) <= int(numbers[2]):
        raise UserError(f"--part {arguments.part} must be i/n with i from 1 to n, such as 1/2")
    arguments.part = int(numbers[1]), int(numbers[2])
    return arguments


@reports_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    arguments = parse_arguments(argv)
    plan = read_plan(arguments.plan)
    number, count = arguments.part
    chosen = {run.tag for run in list(plan.runs())[number - 1 :: count]}
    waiting = [pair for pair in waiting_runs(plan, arguments.runs, arguments.results) if pair[0].tag in chosen]
    for place, (run, checkpoint) in enumerate(waiting, 1):
        logger.info("measuring %s (%d of %d)", run.tag, place, len(waiting))
        measure_run(plan, run, checkpoint, arguments.results)
    total = write_records(arguments.results, (run.tag for run in plan.runs()))
    logger.info("%d runs are measured; %s", total, arguments.results / "runs.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
